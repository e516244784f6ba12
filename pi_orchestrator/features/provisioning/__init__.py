"""Provisioning: many cameras given WiFi credentials in one session."""
