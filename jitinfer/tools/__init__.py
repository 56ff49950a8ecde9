"""The command line and what it reports."""
