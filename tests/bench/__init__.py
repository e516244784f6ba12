"""The benchmark: cost and speed of the daemon, each figure with a reference from the same run."""
