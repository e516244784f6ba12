-- A database as the sixth version left it: schema 6, with the status topics that cameras have established.
-- Released schemas never change: neither does this file.
PRAGMA user_version=6;
BEGIN TRANSACTION;
CREATE TABLE allowlist (
    mac          TEXT PRIMARY KEY,
    description  TEXT,
    container_id TEXT,
    added_at     TEXT NOT NULL,
    used_at      TEXT
) STRICT, WITHOUT ROWID;
INSERT INTO "allowlist" VALUES('24:6F:28:00:01:01','Küche','auto-onboard','2026-03-04T10:00:00.000000Z','2026-03-04T10:03:00.000000Z');
INSERT INTO "allowlist" VALUES('24:6F:28:00:01:02','=1+1',NULL,'2026-03-04T10:00:00.000000Z',NULL);
INSERT INTO "allowlist" VALUES('24:6F:28:00:01:03',NULL,'not-there-yet','2026-03-04T10:00:30.000000Z',NULL);
CREATE TABLE api_keys (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    scope      TEXT NOT NULL CHECK (scope IN ('read', 'operate', 'admin')),
    digest     BLOB NOT NULL UNIQUE,
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "api_keys" VALUES('k-01','admin','admin',X'000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F','2026-01-22T15:00:00.000000Z');
CREATE TABLE assignments (
    mac          TEXT PRIMARY KEY REFERENCES cameras (mac) ON DELETE CASCADE,
    container_id TEXT NOT NULL REFERENCES containers (id),
    position     INTEGER NOT NULL CHECK (position BETWEEN 1 AND 4),
    assigned_at  TEXT NOT NULL,
    UNIQUE (container_id, position)
) STRICT, WITHOUT ROWID;
INSERT INTO "assignments" VALUES('24:6F:28:00:00:01','auto-onboard',1,'2026-01-22T15:00:01.000000Z');
INSERT INTO "assignments" VALUES('24:6F:28:00:00:02','auto-onboard',2,'2026-01-22T15:00:02.000000Z');
INSERT INTO "assignments" VALUES('24:6F:28:00:00:03','auto-onboard',3,'2026-01-22T15:00:03.000000Z');
INSERT INTO "assignments" VALUES('24:6F:28:00:00:04','auto-onboard',4,'2026-01-22T15:00:04.000000Z');
INSERT INTO "assignments" VALUES('24:6F:28:00:00:05','auto-onboard-2',1,'2026-01-22T15:00:05.000000Z');
INSERT INTO "assignments" VALUES('24:6F:28:00:02:01','5a0c2f1e-0000-4000-8000-000000000001',3,'2026-05-06T08:02:00.000000Z');
CREATE TABLE cameras (
    mac              TEXT PRIMARY KEY,
    device_id        TEXT NOT NULL UNIQUE,
    name             TEXT,
    ip_address       TEXT,
    firmware_version TEXT,
    registered_by    TEXT NOT NULL CHECK (registered_by IN ('auto', 'manual')),
    registered_at    TEXT NOT NULL
, topic TEXT) STRICT, WITHOUT ROWID;
INSERT INTO "cameras" VALUES('24:6F:28:00:00:01','espcam-000001','Küche','192.168.10.11','1.4.2','auto','2026-01-22T15:00:01.000000Z','camera/status/espcam-000001');
INSERT INTO "cameras" VALUES('24:6F:28:00:00:02','espcam-000002',NULL,'192.168.10.12','1.4.2','auto','2026-01-22T15:00:02.000000Z','delicasa/box/camera/24:6F:28:00:00:02/status');
INSERT INTO "cameras" VALUES('24:6F:28:00:00:03','espcam-000003',NULL,'192.168.10.13',NULL,'auto','2026-01-22T15:00:03.000000Z',NULL);
INSERT INTO "cameras" VALUES('24:6F:28:00:00:04','espcam-000004',NULL,'192.168.10.14','1.4.2','auto','2026-01-22T15:00:04.000000Z',NULL);
INSERT INTO "cameras" VALUES('24:6F:28:00:00:05','espcam-000005',NULL,'192.168.10.15','1.4.2','auto','2026-01-22T15:00:05.000000Z',NULL);
INSERT INTO "cameras" VALUES('24:6F:28:00:02:01','espcam-000201','Eingang',NULL,NULL,'manual','2026-01-22T15:00:01.000000Z',NULL);
INSERT INTO "cameras" VALUES('24:6F:28:00:02:02','espcam-000202',NULL,'192.168.10.62','2.4.1','manual','2026-05-06T08:02:00.000000Z',NULL);
CREATE TABLE "containers" (
    id          TEXT PRIMARY KEY,
    label       TEXT CHECK (length(label) BETWEEN 1 AND 100),
    description TEXT CHECK (length(description) BETWEEN 1 AND 500),
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL,
    -- Of one that an operator made: the same request a moment later is a repeat.
    boot_id     TEXT,
    monotonic   REAL
) STRICT, WITHOUT ROWID;
INSERT INTO "containers" VALUES('5a0c2f1e-0000-4000-8000-000000000001','Halle Nord ☃','oben, "links"','2026-05-06T08:00:00.000000Z','2026-05-06T08:05:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',900.5);
INSERT INTO "containers" VALUES('5a0c2f1e-0000-4000-8000-000000000002',NULL,NULL,'2026-05-06T08:01:00.000000Z','2026-05-06T08:01:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',960.5);
INSERT INTO "containers" VALUES('auto-onboard','Auto-onboarded',NULL,'2026-01-22T15:00:00.000000Z','2026-01-22T15:00:00.000000Z',NULL,NULL);
INSERT INTO "containers" VALUES('auto-onboard-2','Auto-onboarded (2)',NULL,'2026-01-22T15:00:05.000000Z','2026-01-22T15:00:05.000000Z',NULL,NULL);
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
INSERT INTO "dismissed" VALUES('24:6F:28:00:02:11','replaced','24:6F:28:00:02:01','espcam-000211','Eingang','admin','2026-05-06T08:03:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',1080.5,1);
INSERT INTO "dismissed" VALUES('24:6F:28:00:02:12','unpaired',NULL,'espcam-000212',NULL,'-','2026-05-06T08:04:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',1140.5,0);
CREATE TABLE events (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    type          TEXT NOT NULL,
    mac           TEXT,
    payload       TEXT NOT NULL,
    at            TEXT NOT NULL,
    boot_id       TEXT NOT NULL,
    monotonic     REAL NOT NULL,
    clock_trusted INTEGER NOT NULL
, session_id TEXT) STRICT;
INSERT INTO "events" VALUES(1,'camera.onboarded','24:6F:28:00:00:01','{"mac":"24:6F:28:00:00:01","device_id":"espcam-000001","container_id":"auto-onboard","position":1}','2026-01-22T15:00:01.000000Z','0a1b2c3d-0000-4000-8000-000000000001',121.5,1,NULL);
INSERT INTO "events" VALUES(2,'camera.onboarded','24:6F:28:00:00:02','{"mac":"24:6F:28:00:00:02","device_id":"espcam-000002","container_id":"auto-onboard","position":2}','2026-01-22T15:00:02.000000Z','0a1b2c3d-0000-4000-8000-000000000001',122.5,1,NULL);
INSERT INTO "events" VALUES(3,'camera.onboarded','24:6F:28:00:00:03','{"mac":"24:6F:28:00:00:03","device_id":"espcam-000003","container_id":"auto-onboard","position":3}','2026-01-22T15:00:03.000000Z','0a1b2c3d-0000-4000-8000-000000000001',123.5,1,NULL);
INSERT INTO "events" VALUES(4,'camera.onboarded','24:6F:28:00:00:04','{"mac":"24:6F:28:00:00:04","device_id":"espcam-000004","container_id":"auto-onboard","position":4}','2026-01-22T15:00:04.000000Z','0a1b2c3d-0000-4000-8000-000000000001',124.5,1,NULL);
INSERT INTO "events" VALUES(5,'camera.onboarded','24:6F:28:00:00:05','{"mac":"24:6F:28:00:00:05","device_id":"espcam-000005","container_id":"auto-onboard","position":5}','2026-01-22T15:00:05.000000Z','0a1b2c3d-0000-4000-8000-000000000001',125.5,1,NULL);
INSERT INTO "events" VALUES(6,'device.found','24:6F:28:00:00:06','{"mac":"24:6F:28:00:00:06","ip":"192.168.10.16","locally_administered":false,"near":["24:6F:28:00:00:05"]}','2026-02-03T09:00:01.000000Z','0a1b2c3d-0000-4000-8000-000000000001',62.5,0,NULL);
INSERT INTO "events" VALUES(7,'allowlist.changed',NULL,'{"added":3,"removed":0,"updated":0}','2026-03-04T10:21:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',1600.5,1,NULL);
INSERT INTO "events" VALUES(8,'session.status',NULL,'{"session":{"id":"7c1d2e3f-0000-4000-8000-000000000002","state":"active"}}','2026-03-04T10:21:01.000000Z','0a1b2c3d-0000-4000-8000-000000000001',1601.5,1,'7c1d2e3f-0000-4000-8000-000000000002');
INSERT INTO "events" VALUES(9,'device.discovered','24:6F:28:00:01:11','{"mac":"24:6F:28:00:01:11","ip":"192.168.10.41","rssi":0,"firmware_version":"","in_allowlist":false}','2026-03-04T10:21:02.000000Z','0a1b2c3d-0000-4000-8000-000000000001',1602.5,1,'7c1d2e3f-0000-4000-8000-000000000002');
INSERT INTO "events" VALUES(10,'device.state_changed','24:6F:28:00:01:12','{"mac":"24:6F:28:00:01:12","previous_state":"discovered","new_state":"provisioning","progress":20}','2026-03-04T10:21:03.000000Z','0a1b2c3d-0000-4000-8000-000000000001',1603.5,1,'7c1d2e3f-0000-4000-8000-000000000002');
CREATE TABLE fingerprints (
    mac           TEXT PRIMARY KEY,
    first         TEXT NOT NULL,
    latest        TEXT NOT NULL,
    first_seen_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "fingerprints" VALUES('24:6F:28:00:01:12','{"server": "esp-idf", "topic": "camera/status/espcam-000112"}','{"server": "nginx", "topic": "camera/status/espcam-000112"}','2026-03-04T10:21:06.000000Z');
CREATE TABLE idempotency (
    key          TEXT NOT NULL,
    operation    TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    status       INTEGER NOT NULL,
    body         BLOB NOT NULL,
    at           TEXT NOT NULL,
    PRIMARY KEY (key, operation)
) STRICT, WITHOUT ROWID;
INSERT INTO "idempotency" VALUES('once','post_disable',X'202122232425262728292A2B2C2D2E2F303132333435363738393A3B3C3D3E3F',200,X'7B2273756363657373223A747275657D','2026-01-22T15:00:09.000000Z');
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
INSERT INTO "onboarding_audit" VALUES(1,'24:6F:28:00:00:01','discovered',NULL,NULL,'espcam-000001','192.168.10.11','1.4.2',NULL,NULL,'2026-01-22T15:00:01.000000Z','0a1b2c3d-0000-4000-8000-000000000001',121.5,1);
INSERT INTO "onboarding_audit" VALUES(2,'24:6F:28:00:00:01','verified',NULL,NULL,'espcam-000001','192.168.10.11','1.4.2',NULL,41,'2026-01-22T15:00:01.000000Z','0a1b2c3d-0000-4000-8000-000000000001',121.5,1);
INSERT INTO "onboarding_audit" VALUES(3,'24:6F:28:00:00:01','registered',NULL,NULL,'espcam-000001','192.168.10.11','1.4.2',NULL,41,'2026-01-22T15:00:01.000000Z','0a1b2c3d-0000-4000-8000-000000000001',121.5,1);
INSERT INTO "onboarding_audit" VALUES(4,'24:6F:28:00:00:01','paired',NULL,NULL,'espcam-000001','192.168.10.11','1.4.2','auto-onboard',41,'2026-01-22T15:00:01.000000Z','0a1b2c3d-0000-4000-8000-000000000001',121.5,1);
INSERT INTO "onboarding_audit" VALUES(5,'24:6F:28:00:00:02','discovered',NULL,NULL,'espcam-000002','192.168.10.12','1.4.2',NULL,NULL,'2026-01-22T15:00:02.000000Z','0a1b2c3d-0000-4000-8000-000000000001',122.5,1);
INSERT INTO "onboarding_audit" VALUES(6,'24:6F:28:00:00:02','verified',NULL,NULL,'espcam-000002','192.168.10.12','1.4.2',NULL,42,'2026-01-22T15:00:02.000000Z','0a1b2c3d-0000-4000-8000-000000000001',122.5,1);
INSERT INTO "onboarding_audit" VALUES(7,'24:6F:28:00:00:02','registered',NULL,NULL,'espcam-000002','192.168.10.12','1.4.2',NULL,42,'2026-01-22T15:00:02.000000Z','0a1b2c3d-0000-4000-8000-000000000001',122.5,1);
INSERT INTO "onboarding_audit" VALUES(8,'24:6F:28:00:00:02','paired',NULL,NULL,'espcam-000002','192.168.10.12','1.4.2','auto-onboard',42,'2026-01-22T15:00:02.000000Z','0a1b2c3d-0000-4000-8000-000000000001',122.5,1);
INSERT INTO "onboarding_audit" VALUES(9,'24:6F:28:00:00:03','discovered',NULL,NULL,'espcam-000003','192.168.10.13','1.4.2',NULL,NULL,'2026-01-22T15:00:03.000000Z','0a1b2c3d-0000-4000-8000-000000000001',123.5,1);
INSERT INTO "onboarding_audit" VALUES(10,'24:6F:28:00:00:03','verified',NULL,NULL,'espcam-000003','192.168.10.13','1.4.2',NULL,43,'2026-01-22T15:00:03.000000Z','0a1b2c3d-0000-4000-8000-000000000001',123.5,1);
INSERT INTO "onboarding_audit" VALUES(11,'24:6F:28:00:00:03','registered',NULL,NULL,'espcam-000003','192.168.10.13','1.4.2',NULL,43,'2026-01-22T15:00:03.000000Z','0a1b2c3d-0000-4000-8000-000000000001',123.5,1);
INSERT INTO "onboarding_audit" VALUES(12,'24:6F:28:00:00:03','paired',NULL,NULL,'espcam-000003','192.168.10.13','1.4.2','auto-onboard',43,'2026-01-22T15:00:03.000000Z','0a1b2c3d-0000-4000-8000-000000000001',123.5,1);
INSERT INTO "onboarding_audit" VALUES(13,'24:6F:28:00:00:04','discovered',NULL,NULL,'espcam-000004','192.168.10.14','1.4.2',NULL,NULL,'2026-01-22T15:00:04.000000Z','0a1b2c3d-0000-4000-8000-000000000001',124.5,1);
INSERT INTO "onboarding_audit" VALUES(14,'24:6F:28:00:00:04','verified',NULL,NULL,'espcam-000004','192.168.10.14','1.4.2',NULL,44,'2026-01-22T15:00:04.000000Z','0a1b2c3d-0000-4000-8000-000000000001',124.5,1);
INSERT INTO "onboarding_audit" VALUES(15,'24:6F:28:00:00:04','registered',NULL,NULL,'espcam-000004','192.168.10.14','1.4.2',NULL,44,'2026-01-22T15:00:04.000000Z','0a1b2c3d-0000-4000-8000-000000000001',124.5,1);
INSERT INTO "onboarding_audit" VALUES(16,'24:6F:28:00:00:04','paired',NULL,NULL,'espcam-000004','192.168.10.14','1.4.2','auto-onboard',44,'2026-01-22T15:00:04.000000Z','0a1b2c3d-0000-4000-8000-000000000001',124.5,1);
INSERT INTO "onboarding_audit" VALUES(17,'24:6F:28:00:00:05','discovered',NULL,NULL,'espcam-000005','192.168.10.15','1.4.2',NULL,NULL,'2026-01-22T15:00:05.000000Z','0a1b2c3d-0000-4000-8000-000000000001',125.5,1);
INSERT INTO "onboarding_audit" VALUES(18,'24:6F:28:00:00:05','verified',NULL,NULL,'espcam-000005','192.168.10.15','1.4.2',NULL,45,'2026-01-22T15:00:05.000000Z','0a1b2c3d-0000-4000-8000-000000000001',125.5,1);
INSERT INTO "onboarding_audit" VALUES(19,'24:6F:28:00:00:05','registered',NULL,NULL,'espcam-000005','192.168.10.15','1.4.2',NULL,45,'2026-01-22T15:00:05.000000Z','0a1b2c3d-0000-4000-8000-000000000001',125.5,1);
INSERT INTO "onboarding_audit" VALUES(20,'24:6F:28:00:00:05','paired',NULL,NULL,'espcam-000005','192.168.10.15','1.4.2','auto-onboard',45,'2026-01-22T15:00:05.000000Z','0a1b2c3d-0000-4000-8000-000000000001',125.5,1);
INSERT INTO "onboarding_audit" VALUES(21,'24:6F:28:00:00:06','rejected_by_policy','DENIED','on the deny list',NULL,'192.168.10.16',NULL,NULL,NULL,'2026-01-22T15:00:08.000000Z','0a1b2c3d-0000-4000-8000-000000000001',128.0,0);
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
INSERT INTO "onboarding_state" VALUES(1,0,3.5,130.0,'0a1b2c3d-0000-4000-8000-000000000001',6,5,0,1,2,'2026-01-22T15:00:05.000000Z',NULL);
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
INSERT INTO "operator_actions" VALUES(1,'admin','192.168.1.20','c-1','onboarding.disable',NULL,'ok','2026-01-22T15:00:09.000000Z','0a1b2c3d-0000-4000-8000-000000000001',131.0,1);
CREATE TABLE presence (
    mac     TEXT PRIMARY KEY REFERENCES cameras (mac) ON DELETE CASCADE,
    state   TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    seen_monotonic REAL NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "presence" VALUES('24:6F:28:00:00:01','online','2026-01-22T15:00:09.000000Z','0a1b2c3d-0000-4000-8000-000000000001',131.25);
INSERT INTO "presence" VALUES('24:6F:28:00:00:02','online','2026-01-22T15:00:09.000000Z','0a1b2c3d-0000-4000-8000-000000000001',132.25);
INSERT INTO "presence" VALUES('24:6F:28:00:00:03','online','2026-01-22T15:00:09.000000Z','0a1b2c3d-0000-4000-8000-000000000001',133.25);
INSERT INTO "presence" VALUES('24:6F:28:00:00:04','online','2026-01-22T15:00:09.000000Z','0a1b2c3d-0000-4000-8000-000000000001',134.25);
INSERT INTO "presence" VALUES('24:6F:28:00:00:05','online','2026-01-22T15:00:09.000000Z','0a1b2c3d-0000-4000-8000-000000000001',135.25);
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
INSERT INTO "replacements" VALUES(1,'24:6F:28:00:02:11','24:6F:28:00:02:01',21,'admin','2026-05-06T08:03:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',1080.5,1);
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
INSERT INTO "scans" VALUES('5b0c1a52-6d0e-4c55-9a55-000000000001','periodic','arp','wlan0','192.168.10.0/24','done',5,5,0,0,NULL,912,'2026-02-03T09:00:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',61.5,0);
INSERT INTO "scans" VALUES('5b0c1a52-6d0e-4c55-9a55-000000000002','dashboard','arp','wlan0','192.168.10.0/24','done',4,0,1,1,NULL,1034,'2026-02-03T09:00:41.250000Z','0a1b2c3d-0000-4000-8000-000000000001',102.75,1);
INSERT INTO "scans" VALUES('5b0c1a52-6d0e-4c55-9a55-000000000003','dashboard','neighbour','wlan0','192.168.10.0/24','cancelled',2,0,0,0,'cancelled',371,'2026-02-03T09:01:12.000000Z','0a1b2c3d-0000-4000-8000-000000000001',133.5,1);
INSERT INTO "scans" VALUES('5b0c1a52-6d0e-4c55-9a55-000000000004','periodic','arp','wlan0','192.168.10.0/24','failed',0,0,0,0,'wlan0 went away during the scan: Network is down',55,'2026-02-03T09:02:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',181.5,1);
INSERT INTO "scans" VALUES('5b0c1a52-6d0e-4c55-9a55-000000000005','operator','arp','wlan0','192.168.10.0/24','interrupted',0,0,0,0,NULL,NULL,'2026-02-03T09:03:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',241.5,1);
INSERT INTO "scans" VALUES('5b0c1a52-6d0e-4c55-9a55-000000000006','operator','arp','wlan0','192.168.10.0/24','running',0,0,0,0,NULL,NULL,'2026-02-03T09:04:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',301.5,1);
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
INSERT INTO "session_devices" VALUES('7c1d2e3f-0000-4000-8000-000000000001','24:6F:28:00:01:01','verified',100,'192.168.10.31',-54,'2.1.0',1,NULL,0,NULL,NULL,'2026-03-04T10:01:05.000000Z','2026-03-04T10:02:00.000000Z','2026-03-04T10:03:00.000000Z','192.168.10.31','0a1b2c3d-0000-4000-8000-000000000001',460.5);
INSERT INTO "session_devices" VALUES('7c1d2e3f-0000-4000-8000-000000000002','24:6F:28:00:01:11','discovered',0,'192.168.10.41',0,'',0,NULL,0,NULL,NULL,'2026-03-04T10:21:05.000000Z',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "session_devices" VALUES('7c1d2e3f-0000-4000-8000-000000000002','24:6F:28:00:01:12','provisioning',20,'192.168.10.42',-61,'2.1.0',0,1,0,NULL,NULL,'2026-03-04T10:21:06.000000Z',NULL,NULL,'192.168.10.42','0a1b2c3d-0000-4000-8000-000000000001',1620.25);
INSERT INTO "session_devices" VALUES('7c1d2e3f-0000-4000-8000-000000000002','24:6F:28:00:01:13','provisioned',60,'192.168.10.43',-62,'2.1.0',0,NULL,0,NULL,NULL,'2026-03-04T10:21:07.000000Z','2026-03-04T10:22:00.000000Z',NULL,'192.168.10.43','0a1b2c3d-0000-4000-8000-000000000001',1621.5);
INSERT INTO "session_devices" VALUES('7c1d2e3f-0000-4000-8000-000000000002','24:6F:28:00:01:14','verifying',80,'192.168.10.44',-63,'2.1.0',0,NULL,0,NULL,NULL,'2026-03-04T10:21:08.000000Z','2026-03-04T10:22:05.000000Z',NULL,NULL,NULL,NULL);
INSERT INTO "session_devices" VALUES('7c1d2e3f-0000-4000-8000-000000000002','24:6F:28:00:01:15','verified',100,'192.168.10.45',-64,'2.1.0',0,NULL,0,NULL,NULL,'2026-03-04T10:21:09.000000Z','2026-03-04T10:22:09.000000Z','2026-03-04T10:23:00.000000Z',NULL,NULL,NULL);
INSERT INTO "session_devices" VALUES('7c1d2e3f-0000-4000-8000-000000000002','24:6F:28:00:01:16','failed',60,'192.168.10.46',-65,'2.1.0',3,NULL,0,'VERIFICATION_TIMEOUT','it did not come back','2026-03-04T10:21:10.000000Z',NULL,NULL,NULL,NULL,NULL);
CREATE TABLE session_secrets (
    session_id TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    key_id     TEXT NOT NULL,
    sealed     BLOB NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "session_secrets" VALUES('7c1d2e3f-0000-4000-8000-000000000002','k-01',X'404142434445464748494A4B4C4D4E4F505152535455565758595A5B5C5D5E5F606162636465666768696A6B6C6D6E6F');
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
INSERT INTO "sessions" VALUES(1,'7c1d2e3f-0000-4000-8000-000000000001','closed','wlan0','Zuhause',60,120,90,0,'closed','2026-03-04T10:01:00.000000Z','2026-03-04T10:06:00.000000Z','2026-03-04T10:06:00.000000Z','0a1b2c3d-0000-4000-8000-000000000001',400.5,1);
INSERT INTO "sessions" VALUES(2,'7c1d2e3f-0000-4000-8000-000000000002','active','wlan0','Zuhause',60,120,90,1,NULL,'2026-03-04T10:21:00.000000Z','2026-03-04T10:26:00.000000Z',NULL,'0a1b2c3d-0000-4000-8000-000000000001',1600.5,1);
CREATE INDEX onboarding_audit_by_mac ON onboarding_audit (mac_address, id);
CREATE UNIQUE INDEX one_open_session ON sessions (network_interface) WHERE state <> 'closed';
CREATE INDEX replacements_by_new ON replacements (new_mac);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('onboarding_audit',21);
INSERT INTO "sqlite_sequence" VALUES('events',10);
INSERT INTO "sqlite_sequence" VALUES('operator_actions',1);
INSERT INTO "sqlite_sequence" VALUES('sessions',2);
INSERT INTO "sqlite_sequence" VALUES('replacements',1);
COMMIT;
