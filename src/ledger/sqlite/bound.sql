-- Version 3: sessions that other programs hold may end with the run of a supervisor.

-- Whether they do. While the run lives, this is for its death; once it is about to stop, for that stop.
ALTER TABLE instances ADD COLUMN ends_held INTEGER NOT NULL DEFAULT 0;

UPDATE instances SET ends_held = 1 WHERE reason = 'shutdown';
