#!/usr/bin/env python3
"""A receiver of session-supervisor's webhooks, with nothing but the standard library.

    WEBHOOK_SECRET=whsec_... python3 webhook_receiver.py 8080

It checks the signature of each request, skips events that it has seen, and prints the others. Put TLS in
front of it, such as a reverse proxy, where requests come from another machine.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# One secret, or several with spaces between them while a key is changed.
KEYS = [
    base64.b64decode(secret.removeprefix("whsec_"))
    for secret in os.environ["WEBHOOK_SECRET"].split()
]
TOLERANCE = 5 * 60  # seconds
MAX_BODY = 16 * 1024 * 1024

# What was handled. A real receiver keeps it where it keeps what it does with the events, such as in a
# unique column, and in the same transaction.
seen = set()


def is_genuine(headers, body):
    """Whether one of our keys signed the request, not long ago."""
    webhook_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit()) or abs(time.time() - int(timestamp)) > TOLERANCE:
        return False
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    expected = [
        b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
        for key in KEYS
    ]
    given = headers.get("webhook-signature", "").encode(errors="replace").split()
    return any(hmac.compare_digest(one, other) for one in given for other in expected)


def handle(event):
    """What the receiver is for. The same event may come again, so it is done once."""
    if event["event_id"] in seen:
        return
    session = event.get("session") or {}
    print(event["type"], session.get("id"), event.get("reason"), flush=True)
    seen.add(event["event_id"])


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # so that connections are used again
    timeout = 30  # seconds that a client may be silent

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > MAX_BODY:
            # What follows is not read, and must not be taken for another request.
            self.close_connection = True
            return self.answer(413)
        length = int(length)
        body = self.rfile.read(length)
        if not is_genuine(self.headers, body):
            return self.answer(401)
        message = json.loads(body)
        # `body = "batch"` sends several events at once.
        events = message["events"] if message["type"] == "session_batch" else [message]
        for event in events:
            handle(event)
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print("listening on port", server.server_port, flush=True)
    server.serve_forever()
