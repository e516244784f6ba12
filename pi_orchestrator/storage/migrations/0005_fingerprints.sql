-- How a camera answered when it was first seen, and how it answers now: a copied MAC does not copy the rest.

CREATE TABLE fingerprints (
    mac           TEXT PRIMARY KEY,
    first         TEXT NOT NULL,
    latest        TEXT NOT NULL,
    first_seen_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
