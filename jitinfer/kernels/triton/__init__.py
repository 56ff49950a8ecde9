"""Triton functions: compiled without a device and without torch, launched by `jitinfer.runtime`."""
