-- Version 1 of the ledger. Times are milliseconds since 1970, UTC.
--
-- The log is `starts` and `ends` together: both are keyed by the place in it. Where both lack a place,
-- its event was let go of.

-- The runs of supervisors, in their order.
CREATE TABLE instances (
    number              INTEGER PRIMARY KEY,
    id                  BLOB NOT NULL,
    started_at          INTEGER NOT NULL,
    -- The last moment at which it was known to be alive.
    alive_at            INTEGER NOT NULL,
    -- Why it was about to stop; null while it was not.
    reason              TEXT,
    restart_expected_ms INTEGER,
    "trigger"           TEXT,
    asked_at            INTEGER,
    -- When it came to the end of its stop.
    stopped_at          INTEGER
) STRICT;

CREATE TABLE starts (
    seq         INTEGER PRIMARY KEY,
    at          INTEGER NOT NULL,
    instance    INTEGER NOT NULL,
    id          TEXT NOT NULL,
    incarnation BLOB NOT NULL,
    -- The session as JSON.
    session     TEXT NOT NULL
) STRICT;

CREATE INDEX starts_by_id ON starts (id);

-- The sessions that have not ended: what a recovery ends in one statement, whatever has ended before.
CREATE TABLE open (
    start_seq INTEGER PRIMARY KEY
) STRICT;

-- The details of sessions that were started again while they were active. The start's own event
-- stays what it was.
CREATE TABLE amendments (
    start_seq INTEGER PRIMARY KEY,
    session   TEXT NOT NULL
) STRICT;

CREATE TABLE ends (
    seq         INTEGER PRIMARY KEY,
    start_seq   INTEGER NOT NULL UNIQUE,
    detected_at INTEGER NOT NULL,
    -- Null if it is `detected_at`.
    ended_at    INTEGER,
    instance    INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    -- What its owner said of the end, as JSON; null for nothing.
    details     TEXT
) STRICT;

CREATE TABLE plugins (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Null once the plugin was given up: its parked rows are being deleted.
    name        TEXT UNIQUE,
    since       INTEGER NOT NULL,
    cursor      INTEGER NOT NULL,
    -- How many runs in a row died while it was behind the log, without progress.
    deaths      INTEGER NOT NULL DEFAULT 0,
    -- When it was found to be configured no longer.
    detached_at INTEGER
) STRICT;

CREATE TABLE parked (
    plugin     INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    dead       INTEGER NOT NULL,
    error      TEXT NOT NULL,
    PRIMARY KEY (plugin, seq)
) STRICT, WITHOUT ROWID;

-- For reclaiming: whether anybody has an event parked.
CREATE INDEX parked_by_seq ON parked (seq);
