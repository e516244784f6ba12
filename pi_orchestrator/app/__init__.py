"""Composition root: builds all features, starts and stops them.

This module imports nothing, so that commands that import a module of this package do not load every feature.
"""
