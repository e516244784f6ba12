"""The record: SQLite, and the only SQL of the project."""
