"""Shared parts of the command line. Commands import what they need when they run, so that they start fast."""
