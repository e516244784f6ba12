"""Commands to cameras, and reboots."""
