"""Composition root: builds all features, starts and stops them.

This module imports nothing: a scan without a daemon (`survey`) must not load every feature.
"""
