"""Network: status of broker, WiFi, Tailscale and the upstream gateway."""
