"""The benchmark: what the daemon costs and how fast it is, each figure beside a reference of the same run."""
