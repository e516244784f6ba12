"""Devices: everything on the camera network, and the evidence for it."""
