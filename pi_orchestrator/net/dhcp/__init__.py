"""Leases of the local DHCP server."""
