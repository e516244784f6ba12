-- Containers with limits on what people write on them; who was taken out or replaced, and whose history goes on.

CREATE TABLE containers_new (
    id          TEXT PRIMARY KEY,
    label       TEXT CHECK (length(label) BETWEEN 1 AND 100),
    description TEXT CHECK (length(description) BETWEEN 1 AND 500),
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL,
    -- Of one that an operator made: the same request a moment later is a repeat.
    boot_id     TEXT,
    monotonic   REAL
) STRICT, WITHOUT ROWID;
INSERT INTO containers_new (id, label, description, created_at, updated_at)
    SELECT id, nullif(substr(label, 1, 100), ''), nullif(substr(description, 1, 500), ''), created_at, updated_at
    FROM containers;
DROP TABLE containers;
ALTER TABLE containers_new RENAME TO containers;

-- Cameras that were taken out: auto-onboarding leaves them alone until they are paired by hand, or this is lifted.
CREATE TABLE dismissed (
    mac           TEXT PRIMARY KEY,
    reason        TEXT NOT NULL CHECK (reason IN ('unpaired', 'replaced')),
    replaced_by   TEXT CHECK ((replaced_by IS NOT NULL) = (reason = 'replaced')),
    device_id     TEXT NOT NULL,
    name          TEXT,
    actor         TEXT NOT NULL,
    at            TEXT NOT NULL,
    boot_id       TEXT NOT NULL,
    monotonic     REAL NOT NULL,
    clock_trusted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- New hardware in an old camera's place: the audit of the old one, up to this row, is history of the new one.
CREATE TABLE replacements (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    old_mac       TEXT NOT NULL,
    new_mac       TEXT NOT NULL,
    audit_upto    INTEGER NOT NULL,
    actor         TEXT NOT NULL,
    at            TEXT NOT NULL,
    boot_id       TEXT NOT NULL,
    monotonic     REAL NOT NULL,
    clock_trusted INTEGER NOT NULL
) STRICT;
CREATE INDEX replacements_by_new ON replacements (new_mac);
