"""Recovery of cameras without pictures: retry, reboot, notify the operator."""
