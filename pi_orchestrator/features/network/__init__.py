"""Network: status of broker, WiFi, Tailscale and bridge."""
