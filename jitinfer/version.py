"""The version, apart from everything, so that any room may read it."""

__version__ = "0.1.0"
