-- Cameras, containers, onboarding, keys, and the log that gives events their ids.

CREATE TABLE cameras (
    mac              TEXT PRIMARY KEY,
    device_id        TEXT NOT NULL UNIQUE,
    name             TEXT,
    ip_address       TEXT,
    firmware_version TEXT,
    registered_by    TEXT NOT NULL CHECK (registered_by IN ('auto', 'manual')),
    registered_at    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE containers (
    id          TEXT PRIMARY KEY,
    label       TEXT,
    description TEXT,
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE assignments (
    mac          TEXT PRIMARY KEY REFERENCES cameras (mac) ON DELETE CASCADE,
    container_id TEXT NOT NULL REFERENCES containers (id),
    position     INTEGER NOT NULL CHECK (position BETWEEN 1 AND 4),
    assigned_at  TEXT NOT NULL,
    UNIQUE (container_id, position)
) STRICT, WITHOUT ROWID;

-- One narrow row a camera: rewritten in one transaction per interval, so its pages must be few.
CREATE TABLE presence (
    mac     TEXT PRIMARY KEY REFERENCES cameras (mac) ON DELETE CASCADE,
    state   TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    seen_monotonic REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE onboarding_audit (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    mac_address      TEXT NOT NULL,
    stage            TEXT NOT NULL CHECK (stage IN
                     ('discovered', 'verified', 'registered', 'paired', 'failed', 'rejected_by_policy')),
    error_code       TEXT,
    error_message    TEXT,
    device_id        TEXT,
    ip_address       TEXT,
    firmware_version TEXT,
    container_id     TEXT,
    duration_ms      INTEGER,
    at               TEXT NOT NULL,
    boot_id          TEXT NOT NULL,
    monotonic        REAL NOT NULL,
    clock_trusted    INTEGER NOT NULL
) STRICT;
CREATE INDEX onboarding_audit_by_mac ON onboarding_audit (mac_address, id);

CREATE TABLE onboarding_state (
    id                 INTEGER PRIMARY KEY CHECK (id = 1),
    enabled            INTEGER NOT NULL,
    tokens             REAL,
    tokens_monotonic   REAL,
    tokens_boot_id     TEXT,
    attempts           INTEGER NOT NULL DEFAULT 0,
    success            INTEGER NOT NULL DEFAULT 0,
    failed             INTEGER NOT NULL DEFAULT 0,
    rejected_by_policy INTEGER NOT NULL DEFAULT 0,
    already_onboarded  INTEGER NOT NULL DEFAULT 0,
    last_success_at    TEXT,
    last_failure_at    TEXT
) STRICT;

CREATE TABLE api_keys (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    scope      TEXT NOT NULL CHECK (scope IN ('read', 'operate', 'admin')),
    digest     BLOB NOT NULL UNIQUE,
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE operator_actions (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    actor          TEXT NOT NULL,
    peer           TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    action         TEXT NOT NULL,
    target         TEXT,
    outcome        TEXT NOT NULL,
    at             TEXT NOT NULL,
    boot_id        TEXT NOT NULL,
    monotonic      REAL NOT NULL,
    clock_trusted  INTEGER NOT NULL
) STRICT;

CREATE TABLE events (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    type          TEXT NOT NULL,
    mac           TEXT,
    payload       TEXT NOT NULL,
    at            TEXT NOT NULL,
    boot_id       TEXT NOT NULL,
    monotonic     REAL NOT NULL,
    clock_trusted INTEGER NOT NULL
) STRICT;

-- Answers to requests that carried an Idempotency-Key, so that a repeat gets the same one.
CREATE TABLE idempotency (
    key          TEXT NOT NULL,
    operation    TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    status       INTEGER NOT NULL,
    body         BLOB NOT NULL,
    at           TEXT NOT NULL,
    PRIMARY KEY (key, operation)
) STRICT, WITHOUT ROWID;
