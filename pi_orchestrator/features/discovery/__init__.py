"""Discovery: scans, passive sources and probes of the camera network."""
