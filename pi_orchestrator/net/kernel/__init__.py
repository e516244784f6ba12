"""Interfaces, addresses and neighbours of the kernel, by netlink."""
