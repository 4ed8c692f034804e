#!/usr/bin/env python3
"""Holds sessions: they end when this program dies.

It tells the gateway of its sessions, and keeps a connection open as its sign of life. Killed, it can
tell nobody: the connection drops, and its sessions end with the reason `lost`. A gateway that is
restarted leaves them active until the program is back. Standard library only.

    python3 holder.py sess-1 sess-2

starts those two. A line on standard input is the id of a session: it starts, or ends if it is active.
SIGTERM or Ctrl-C end them all.
"""

import http.client
import json
import os
import signal
import sys
import threading
import time
import uuid
from urllib.parse import quote, urlsplit

# `session-supervisor run` sets these for its program.
URL = urlsplit(os.environ.get("SESSION_SUPERVISOR_URL") or "http://127.0.0.1:7467")
TOKEN = os.environ.get("SESSION_SUPERVISOR_TOKEN")
HOLDER = os.environ.get("SESSION_SUPERVISOR_HOLDER") or "holder.py"
# Another one for each process: it tells a program that was started again from one that is back.
RUN_ID = os.environ.get("SESSION_SUPERVISOR_RUN_ID") or uuid.uuid4().hex
GRACE_MS = int(os.environ.get("HOLDER_GRACE_MS") or 5000)  # to be back in after a connection broke
LEASE = f"/v1/holders/{quote(HOLDER, safe='')}"

sessions = {}  # the incarnation of each active session, by its id
lock = threading.RLock()  # held while `sessions` and the gateway may differ
stopping = threading.Event()


def say(text):
    sys.stdout.write(f"{text}\n")  # in one, so that the lines of two threads stay apart
    sys.stdout.flush()


class Refused(Exception):
    """The gateway won't: asking again does not help."""


def send(method, path, body):
    kind = http.client.HTTPSConnection if URL.scheme == "https" else http.client.HTTPConnection
    # Even a hold's stream has a comment every few seconds: after more silence nobody is there.
    connection = kind(URL.hostname, URL.port, timeout=20)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    connection.request(method, URL.path.rstrip("/") + path, json.dumps(body), headers)
    answer = connection.getresponse()
    if answer.status >= 500 or answer.status == 429:
        raise ConnectionError(answer.read().decode())
    if answer.status >= 400:
        raise Refused(answer.read().decode())
    return answer


def ask(method, path, body, patience=60):
    """Asks again while the gateway is away: nothing happens twice that is asked for twice."""
    until, pause = time.monotonic() + patience, 0.1
    while True:
        try:
            with send(method, path, body) as answer:
                return json.load(answer)
        except (OSError, http.client.HTTPException):
            if time.monotonic() > until:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 2)


def start(session):
    with lock:  # or a list that is on its way without it would end it
        body = {"id": session, "holder": HOLDER, "run_id": RUN_ID}
        sessions[session] = ask("POST", "/v1/sessions", body)["incarnation"]
        say(f"session {session} started")


def end(session):
    # With its incarnation, so that no session ends that has started under this id since.
    incarnation = sessions.get(session)
    if incarnation is None:  # it has ended by itself
        return
    body = {"reason": "completed", "incarnation": incarnation}
    answer = ask("POST", f"/v1/sessions/{quote(session, safe='')}/end", body)
    ended(session, incarnation, answer["reason"])


def ended(session, incarnation, reason):
    with lock:
        if sessions.get(session) == incarnation:
            del sessions[session]
            say(f"session {session} ended: {reason}")


def reconcile():
    """Learns and tells what either side has missed. The list has to be whole, and fit into 64 KiB."""
    with lock:
        body = {"run_id": RUN_ID, "ids": list(sessions)}
        for session in ask("PUT", f"{LEASE}/sessions", body)["not_active"]:
            ended(session, sessions[session], "unseen")


def hold():
    """Holds by a connection, and by another when it breaks off."""
    pause = 0.1
    while not stopping.wait(pause):
        pause = min(2 * pause, 2)
        try:
            with send("POST", f"{LEASE}/hold", {"run_id": RUN_ID, "grace_ms": GRACE_MS}) as stream:
                reconcile()
                say("holding")
                pause, event = 0.1, None
                for line in stream:
                    field, _, value = line.decode().rstrip("\n").partition(": ")
                    if field == "event":
                        event = value
                    elif field == "data" and event == "ended":
                        told = json.loads(value)
                        ended(told["session"]["id"], told["session"]["incarnation"], told["reason"])
                    elif field == "data" and event == "gap":
                        reconcile()
        except (OSError, http.client.HTTPException) as error:
            say(f"not connected: {error}")
        except Refused as refusal:  # such as when another process of this holder has taken over
            say(f"refused: {refusal}")
            os._exit(1)


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=hold, daemon=True).start()
    try:
        for session in sys.argv[1:]:
            start(session)
        for session in map(str.strip, sys.stdin):
            try:
                end(session) if session in sessions else start(session)
            except Refused as refusal:
                say(f"refused: {refusal}")
        threading.Event().wait()
    except KeyboardInterrupt:
        stopping.set()
        # With its run: the sessions of another process that has taken over go on.
        body = {"reason": "shutdown", "run_id": RUN_ID}
        try:
            count = ask("POST", f"{LEASE}/end", body, patience=3)["ended"]
        except Refused as refusal:
            say(f"refused: {refusal}")
            sys.exit(1)
        say(f"stopped, {count} sessions ended")


if __name__ == "__main__":
    main()
