"""Allowlist: which cameras may be provisioned."""
