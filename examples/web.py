"""A web application that does not make visitors wait: it submits a job, and shows the result later.

Run it with a daemon that reads bgd.toml of this folder: `python web.py 8000`. Then
`curl -d /etc/os-release localhost:8000/reports` returns the address of a report, for example /reports/7.
"""
# ruff: noqa: INP001, T201 - a program that prints for people

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING
from wsgiref.simple_server import make_server

from bgd import Client, DaemonUnreachable, NoSuchJob, run_background_job

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

LONGEST_PATH = 4096  # bytes of a request's body

daemon = Client(timeout=5.0)  # threads may share it


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a WSGI request; with a web framework this looks much the same."""
    headers = [("Content-Type", "application/json")]
    try:
        status, answer = respond(environ)
    except DaemonUnreachable as error:  # answer at once instead of waiting
        status, answer = "503 Service Unavailable", {"error": str(error)}
    except NoSuchJob as error:
        status, answer = "404 Not Found", {"error": str(error)}
    if "report" in answer:
        headers.append(("Location", str(answer["report"])))
    start_response(status, headers)
    return [json.dumps(answer).encode() + b"\n"]


def respond(environ: WSGIEnvironment) -> tuple[str, dict[str, object]]:
    """Order a report, or return the state of one."""
    match environ["REQUEST_METHOD"], environ["PATH_INFO"].split("/")[1:]:
        case "POST", ["reports"]:
            length = min(int(environ["CONTENT_LENGTH"] or 0), LONGEST_PATH)
            path = environ["wsgi.input"].read(length).decode()
            job = run_background_job("app.services.LogReport", "top_words", [path, 3], priority=5)
            return "202 Accepted", {"report": f"/reports/{job.id}"}
        case "GET", ["reports", number] if number.isdecimal():
            job = daemon.job(int(number))
            words = job.result() if job.state == "succeeded" else None
            return "200 OK", {"state": job.state, "words": words}
        case _:
            return "404 Not Found", {"error": "POST a path to /reports, or GET /reports/NUMBER"}


if __name__ == "__main__":
    with make_server("127.0.0.1", int(sys.argv[1]), application) as server, suppress(KeyboardInterrupt):
        print(f"http://127.0.0.1:{server.server_port}/reports", flush=True)
        server.serve_forever()
