"""System: health, logs, support bundle, doctor."""
