"""Files served at `/`: the daemon's console page or a built dashboard."""
