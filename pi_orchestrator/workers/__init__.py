"""The work: each worker is passes that can be tested alone, and a loop that adds time. They never import each other."""
