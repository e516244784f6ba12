"""The composition root: the only place that builds things, and the life of what is built.

Nothing is imported here: what scans without a daemon (`survey`) must not load all of it.
"""
