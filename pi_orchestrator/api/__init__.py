"""The HTTP API: one route table, one place for the envelope, one for access; handlers parse nothing and map nothing."""
