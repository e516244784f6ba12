"""Recovery of cameras without pictures: retry, reboot, call an operator."""
