"""SQLite database, event and audit log, state folder, encrypted secrets."""
