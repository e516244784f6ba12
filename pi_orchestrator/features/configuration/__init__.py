"""Configuration: read and change settings while the daemon runs."""
