"""A simulated world for development: cameras that speak the real protocols over real sockets."""
