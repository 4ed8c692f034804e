-- Version 2: sessions that other programs hold outlive the supervisor's process.

-- Whether another program holds the session.
ALTER TABLE open ADD COLUMN held INTEGER NOT NULL DEFAULT 0;

UPDATE open SET held = 1
WHERE start_seq IN (
    SELECT begun.seq
    FROM open AS o JOIN starts AS begun ON begun.seq = o.start_seq
        LEFT JOIN amendments AS amended ON amended.start_seq = o.start_seq
    WHERE json_extract(coalesce(amended.session, begun.session), '$.holder') IS NOT NULL
);

CREATE TABLE holders (
    name      TEXT PRIMARY KEY,
    -- Its current run; null while none is known.
    run_id    TEXT,
    -- The runs before, oldest first, as a JSON array.
    past_runs TEXT NOT NULL,
    -- Whether its current run is the first since it was mentioned.
    is_first_run INTEGER NOT NULL,
    -- How long its last lease was.
    lease_ms  INTEGER NOT NULL
) STRICT;
