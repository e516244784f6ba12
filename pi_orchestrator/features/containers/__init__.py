"""Containers, pairing and replacement of cameras."""
