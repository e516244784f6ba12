"""Events: the two event streams."""
