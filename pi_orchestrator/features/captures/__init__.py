"""Captures: pictures taken by cameras."""
