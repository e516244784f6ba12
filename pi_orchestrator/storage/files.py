"""File names in the state folder. Imports nothing, so that the command line starts fast."""

DATABASE = "orchestrator.db"
BACKUPS = "backups"
ADMIN_KEY = "admin.key"
SESSION_SECRET = "session.secret"  # noqa: S105  # a file name
STARTS = "starts"
LOCK = "lock"
CLEAN_MARKER = "clean-shutdown"
