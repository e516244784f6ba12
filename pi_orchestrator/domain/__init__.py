"""The words of the field: frozen types, state machines and pure rules. No input or output."""
