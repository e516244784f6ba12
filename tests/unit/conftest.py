"""hypothesis here: no time limit of its own (pytest has one), no database of examples in the tree."""

from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None, max_examples=100)
settings.load_profile("unit")
