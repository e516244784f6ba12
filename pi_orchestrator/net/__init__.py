"""Adapters for everything outside this process: network, kernel, broker, files, programs."""
