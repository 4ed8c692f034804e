#!/usr/bin/env python3
"""Keeps a table of sessions in a SQLite database.

An example of a plugin of kind `command` in the mode `stream`: it runs as long as the gateway does,
reads an event per line from standard input, and answers each by a line on standard output. Standard
library only.

    [[plugin]]
    name = "table"
    kind = "command"
    command = ["python3", "/usr/local/lib/stream_plugin.py", "/var/lib/app/sessions.db"]
    mode = "stream"
    pass_env = ["PATH"]
"""

import json
import sqlite3
import sys

SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    incarnation TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT
)
"""


def store(database, event):
    """Both statements say how it is and not what to change, so that a repeat changes nothing."""
    session = event["session"]
    if event["type"] == "session_start":
        database.execute(
            "INSERT INTO sessions (incarnation, id, status) VALUES (?, ?, 'active')"
            " ON CONFLICT (incarnation) DO NOTHING",
            (session["incarnation"], session["id"]),
        )
    else:
        database.execute(
            "INSERT INTO sessions (incarnation, id, status, reason) VALUES (?, ?, 'ended', ?)"
            " ON CONFLICT (incarnation) DO UPDATE SET status = 'ended', reason = excluded.reason",
            (session["incarnation"], session["id"], event["reason"]),
        )


def answer(**fields):
    # Flushed: an answer that waits in a buffer is none.
    print(json.dumps(fields), flush=True)


def main():
    database = sqlite3.connect(sys.argv[1], timeout=2)
    with database:
        database.execute(SCHEMA)
    # Ends when the gateway closes our input. What it has not been answered comes again.
    for line in sys.stdin:
        event = json.loads(line)
        event_id = event["event_id"]
        try:
            with database:  # a transaction, committed before the answer
                if not event.get("synthetic"):
                    store(database, event)
        except sqlite3.OperationalError as error:
            # Locked, full, read-only: not this event's fault. We are started again, later each time.
            sys.exit(f"{error}")
        except (KeyError, sqlite3.DatabaseError) as error:
            answer(reject=event_id, message=f"{type(error).__name__}: {error}")
        else:
            answer(ack=event_id)


if __name__ == "__main__":
    main()
