-- Discovery runs: what was asked, by whom, and what came of it.

CREATE TABLE scans (
    id            TEXT PRIMARY KEY,
    requested_by  TEXT NOT NULL,
    engine        TEXT NOT NULL,
    interface     TEXT NOT NULL,
    subnet        TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('running', 'done', 'cancelled', 'failed', 'interrupted')),
    found         INTEGER NOT NULL,
    new           INTEGER NOT NULL,
    moved         INTEGER NOT NULL,
    gone          INTEGER NOT NULL,
    message       TEXT,
    duration_ms   INTEGER,
    started_at    TEXT NOT NULL,
    boot_id       TEXT NOT NULL,
    monotonic     REAL NOT NULL,
    clock_trusted INTEGER NOT NULL
) STRICT;
