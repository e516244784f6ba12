"""The local machine: metrics, files, programs, systemd."""
