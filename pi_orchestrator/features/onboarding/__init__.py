"""Onboarding: cameras registered automatically under a policy."""
