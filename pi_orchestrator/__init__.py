"""Edge daemon for ESP32 cameras behind a Raspberry Pi."""

__version__ = "0.1.0"
