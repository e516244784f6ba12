"""Cameras: registered and live ones, their presence and their views."""
