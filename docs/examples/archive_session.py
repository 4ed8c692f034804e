#!/usr/bin/env python3
"""Keeps every session that has ended as a file of its own.

An example of a plugin of kind `command` in the mode `per_event`: it is started for each event, reads
it from standard input, and answers by its exit code. Standard library only.

    [[plugin]]
    name = "archive"
    kind = "command"
    command = ["python3", "/usr/local/lib/archive_session.py", "/var/lib/app/archive"]
    hooks = ["session_end"]
    pass_env = ["PATH"]
"""

import json
import os
import sys
import tempfile

TAKEN = 0
REJECTED = 1
TRY_LATER = 75  # EX_TEMPFAIL: no event is blamed


def write(directory, event):
    """Writes the event under its id, whole or not at all, and so that it survives a loss of power.

    An event that comes a second time, since our first answer was lost, has the same id and the same
    content: it takes the place of the first.
    """
    with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as file:
        try:
            json.dump(event, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, os.path.join(directory, event["event_id"] + ".json"))
        except BaseException:
            os.unlink(file.name)
            raise
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def main():
    event = json.load(sys.stdin)
    if event["synthetic"]:
        return TAKEN  # `plugins test`: it tells of no real session
    try:
        write(sys.argv[1], event)
    except OSError as error:
        # A full disk, a folder that is not there: that is not the event's fault.
        print(error, file=sys.stderr)
        return TRY_LATER
    return TAKEN


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyError, IndexError, ValueError) as error:
        # The last lines of standard error are what an operator sees.
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(REJECTED)
