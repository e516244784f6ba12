-- Batch provisioning: who may be provisioned, sessions, their devices, and their sealed passwords.

CREATE TABLE allowlist (
    mac          TEXT PRIMARY KEY,
    description  TEXT,
    container_id TEXT,
    added_at     TEXT NOT NULL,
    used_at      TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    number                       INTEGER PRIMARY KEY AUTOINCREMENT,
    id                           TEXT NOT NULL UNIQUE,
    state                        TEXT NOT NULL CHECK (state IN ('discovering', 'active', 'paused', 'closing', 'closed')),
    network_interface            TEXT NOT NULL,
    target_ssid                  TEXT NOT NULL,
    discovery_timeout_seconds    INTEGER NOT NULL,
    provisioning_timeout_seconds INTEGER NOT NULL,
    verification_timeout_seconds INTEGER NOT NULL,
    interrupted                  INTEGER NOT NULL DEFAULT 0,
    ending                       TEXT CHECK (ending IN ('closed', 'expired', 'discarded')),
    created_at                   TEXT NOT NULL,
    updated_at                   TEXT NOT NULL,
    closed_at                    TEXT,
    boot_id                      TEXT NOT NULL,
    monotonic                    REAL NOT NULL,
    clock_trusted                INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_open_session ON sessions (network_interface) WHERE state <> 'closed';

-- A row here is there for as long as its session is open, and no longer.
CREATE TABLE session_secrets (
    session_id TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    key_id     TEXT NOT NULL,
    sealed     BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session_devices (
    session_id       TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    mac              TEXT NOT NULL,
    state            TEXT NOT NULL CHECK (state IN
                     ('discovered', 'provisioning', 'provisioned', 'verifying', 'verified', 'failed')),
    progress         INTEGER NOT NULL CHECK (progress BETWEEN 0 AND 100),
    ip               TEXT NOT NULL,
    rssi             INTEGER NOT NULL,
    firmware_version TEXT NOT NULL,
    retry_count      INTEGER NOT NULL DEFAULT 0,
    queued           INTEGER,
    unlisted         INTEGER NOT NULL DEFAULT 0,
    error_code       TEXT,
    error_message    TEXT,
    discovered_at    TEXT NOT NULL,
    provisioned_at   TEXT,
    verified_at      TEXT,
    sent_ip          TEXT,
    sent_boot_id     TEXT,
    sent_monotonic   REAL,
    PRIMARY KEY (session_id, mac)
) STRICT, WITHOUT ROWID;

ALTER TABLE events ADD COLUMN session_id TEXT;
