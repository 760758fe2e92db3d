"""Seeds: inputs that bgd understands, for the fuzzer to begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bgd.wire.framing import frame
from tests.fuzz.conversation import HELLO

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests/wire/samples"  # messages of each kind, as earlier versions wrote them
CRASHES = Path(__file__).parent / "crashes"  # TARGET-ANYTHING: inputs that once revealed a bug

WORDS = [b"5s", b"1h30m", b"2.5MiB", b"100MB", b"app.tasks:Class.method", b"app.tasks:run", b"app.tasks.*"]
WORDS += [b"php::App\\Mail@send", b"node::lib/mail.send", b"ruby::Mail::Queue@push!", b"php::App\\*"]
WORDS += [b"2026-10-01 14:30", b"tomorrow 9:00", "\u202egnp.exe\x1b[31m".encode()]

REQUESTS = [
    b"GET /job-logs?state=failed&limit=5 HTTP/1.1\r\nHost: a:1\r\nCookie: x=1; bgd=secret\r\n\r\n",
    b"HEAD /job-logs/7/1?tail=100&download=true HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n",
    b"GET /login/abc-_9 HTTP/1.0\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
]

SCHEDULES = [
    b"*/5,1-20/7 0~3 1,15 JAN-mar mon",
    b"@hourly",
    b"Mon..Fri 2026..2030-*~03/2 0/6:30:15",
    b"1h30m",
    b'MAILTO="a@example.org"\nA = b\n0 3 * * 7 root cat%one\\%%two\n@reboot run\n0~9 * * * * x\r\n1 * *',
]


def seeds_of(target: str) -> Iterator[bytes]:
    """Yield the seeds of a target, including its old crashes."""
    match target:
        case "client_messages":
            yield from _samples("hello", "request", "reply")
        case "launcher_messages":
            yield from _samples("to_launcher", "from_launcher")
            yield b'{"result": 1}'
        case "conversation":
            yield from (b"\x05" + frame(request) for request in _samples("request"))
            yield b"\x00" + HELLO + b"".join(map(frame, _samples("request")))
        case "frames":
            yield b"".join(map(frame, (b"", b"one", b"two" * 30)))
        case "http":
            yield from REQUESTS
        case "configuration":
            yield (ROOT / "etc/bgd.toml").read_bytes()
            yield from (b"\n".join(section) for section in _sections())
            yield b"$DAEMON_SLOTS=3\0RETRY_DELAY=5s\0SECURITY_ALLOWED_CLASSES=a.B,c.*"
        case "words" | "schedules":
            yield from WORDS if target == "words" else SCHEDULES
        case "journal":
            yield b"!\x00\xff" + bytes(range(60))
            yield b"!\x01\x00" + bytes([0, 1, 2, 16, 18, 3, 19, 0])
        case "logs":
            yield b"::group::\x1b[1mhttp://x/<b>\x1b[0m\n\"'&<script>\r\n::endgroup::\n\x1b]8;;http://y\x07z"
            yield b"head\n\xff\xfe\xfd" + bytes(32) + b"\xff\xfe\xfdlater\n\xff\xfe\xfd" + bytes(20)
        case _:
            raise KeyError(target)
    yield from (path.read_bytes() for path in sorted(CRASHES.glob(f"{target}-*")))


def _samples(*folders: str) -> Iterator[bytes]:
    for folder in folders:
        yield from (path.read_bytes() for path in sorted((SAMPLES / folder).rglob("*")) if path.is_file())


def _sections() -> Iterator[list[bytes]]:
    """Yield the lines of each section of the documented configuration."""
    section: list[bytes] = []
    for line in (ROOT / "etc/bgd.toml").read_bytes().splitlines():
        if line.startswith(b"[") and section:
            yield section
            section = []
        section.append(line.removeprefix(b"# ") if b" = " in line else line)
    yield section
