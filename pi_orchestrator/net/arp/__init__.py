"""Scan engine that sends and receives ARP frames."""
