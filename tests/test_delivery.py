"""The program that delivers a notification: to a program, to a real SMTP server, to a real HTTPS server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import pytest
import trustme
from aiosmtpd.smtp import SMTP, Envelope, Session
from hypothesis import given
from hypothesis.strategies import characters, text

from bgd import delivery
from bgd.core.notifications import NEVER, Message
from bgd.delivery import MAX_PING, NotDelivered, Notification, as_text, headline, ping
from bgd.logs.files import MAX_LINE, last_lines
from bgd.settings.config import NotifyTarget
from bgd.text.escape import one_line
from tests.docs.pages import first_cells, page
from tests.support import DEADLINE, ROOT

HOST = os.uname().nodename
SECRET = "c0ffee00-1234"
MSMTP = shutil.which("msmtp")
FAILED: dict[str, Any] = {
    "id": "0123456789abcdef",
    "event": "failed",
    "at": "2026-11-27T03:00:12Z",
    "target": "t",
    "subject": "nightly",
    "schedule": "nightly",
    "job": 12,
    "name": "nightly",
    "command": "/usr/local/bin/backup --all",
    "queue": "default",
    "outcome": "exit",
    "exit_code": 3,
    "attempts": 2,
    "failures": 1,
}
TEST = {name: FAILED[name] for name in ("id", "at", "target")} | {"event": "test", "subject": "test"}


def notification(message: Mapping[str, Any] = FAILED, *output: str, **fields: Any) -> Notification:
    return Notification(msgspec.convert({**message, **fields}, Message), "db1", output)


class Delivery:
    """Runs deliveries with a configuration and a home of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "bgd.toml"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BGD_")}
        self.env = kept | {"HOME": str(folder), "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "TZ": "UTC"}

    def run(self, message: dict[str, Any] | str = FAILED) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "bgd.delivery", "--config", str(self.config), "t"],
            input=message if isinstance(message, str) else json.dumps(message),
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def script(self, text: str, *arguments: str) -> None:
        """Let a shell script be what is told."""
        path = self.folder / "tell"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o700)
        self.config.write_text(f"[notify.t]\nprogram = {json.dumps([str(path), *arguments])}\n")


@pytest.fixture
def delivered(tmp_path):
    return Delivery(tmp_path)


# --- a program --------------------------------------------------------------------------------------------


def test_a_program_gets_all_as_variables_and_as_json(delivered):
    log = delivered.folder / "12.2.log"
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(100)))
    delivered.script('env | grep ^BGD_NOTIFICATION_ | sort; echo "$1"; cat; exit 5', "$HOME; exit 1")

    done = delivered.run(FAILED | {"log": str(log)})

    assert (done.returncode, done.stderr) == (5, "")
    *variables, argument, document = done.stdout.splitlines()
    assert argument == "$HOME; exit 1"
    line = f"nightly failed (exit code 3) on {HOST}"
    expected = FAILED | {"log": str(log), "host": HOST, "line": line}
    lacking = dict.fromkeys(["signal", "reason", "due_at", "count"])
    assert variables == sorted(
        f"BGD_NOTIFICATION_{name.upper()}={'' if value is None else value}"
        for name, value in (expected | lacking).items()
    )
    output = [f"line {number}" for number in range(80, 100)]
    assert json.loads(document) == expected | lacking | {"summary": None, "output": output}


def test_a_program_does_not_get_the_settings_of_the_daemon(delivered):
    delivered.script("env")
    delivered.env |= {"BGD_HTTP_METRICS_TOKEN": SECRET * 2, "BGD_JOB_ID": "12", "BGD_CONFIG": "/nowhere"}

    variables = delivered.run().stdout.splitlines()

    assert {"BGD_JOB_ID=12", "BGD_CONFIG=/nowhere"} < set(variables)
    assert not [line for line in variables if line.startswith("BGD_HTTP") or SECRET in line]


def test_a_start_has_no_output_yet(delivered):
    log = delivered.folder / "12.2.log"
    log.write_bytes(b"already there\n")
    delivered.script("cat")

    done = delivered.run(FAILED | {"event": "started", "log": str(log)})

    assert json.loads(done.stdout)["output"] == []


def test_the_page_lists_the_variables():
    cells = first_cells(page("docs/notifications.md"), "variable")

    names = {*Message.__struct_fields__, "line", "host"} - {"summary"}
    assert {name for cell in cells for name in cell.split("`, `")} == {name.upper() for name in names}


def test_strange_text_stays_on_one_line_of_a_variable(delivered):
    delivered.script('printf %s "$BGD_NOTIFICATION_NAME|$BGD_NOTIFICATION_COMMAND" | wc -l -m')

    done = delivered.run(FAILED | {"name": "a\nb\x1b\0ü", "command": "x" * 1_000_000})

    assert done.stdout.split() == ["0", str(len("a␊b␛␀ü|") + 2_000)]


def test_the_end_of_a_program_is_the_end_of_the_job(delivered):
    delivered.script("kill -TERM $$")

    assert delivered.run().returncode == -15


def test_a_program_ignores_no_signals(delivered):
    delivered.script("grep SigIgn /proc/self/status")

    assert delivered.run().stdout == "SigIgn:\t0000000000000000\n"


@pytest.mark.parametrize(
    ("program", "exit_code", "told"),
    [
        ("no-such-program", 127, "[notify.t] cannot run no-such-program: No such file or directory"),
        ("/etc/hostname", 126, "[notify.t] cannot run /etc/hostname: Permission denied"),
    ],
)
def test_a_program_that_cannot_run_takes_one_line(delivered, program, exit_code, told):
    delivered.config.write_text(f"[notify.t]\nprogram = ['{program}']\n")

    done = delivered.run()

    assert (done.returncode, done.stdout, done.stderr) == (exit_code, "", f"bgd: {told}\n")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("", "stdin is not a notification: Input data was truncated"),
        ("{}", "stdin is not a notification: Object missing required field"),
        (json.dumps(FAILED | {"event": "\n"}), "stdin is not a notification: Invalid enum value"),
        (
            json.dumps(FAILED | {"at": "2026-11-27T03:00:12"}),
            "stdin is not a notification: Expected `datetime`",
        ),
        ("[" * 100_000, "stdin is not a notification: "),
        (" " * 4_000_001, "the notification is over the limit of 4000000 bytes"),
    ],
)
def test_what_is_not_a_notification_takes_one_line(delivered, message, told):
    delivered.script("true")

    done = delivered.run(message)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (NEVER, "", 1)
    assert done.stderr.startswith(f"bgd: {told}")


@pytest.mark.parametrize(
    ("configuration", "code", "told"),
    [
        ("", NEVER, "there is no [notify.t] in the configuration; it has none"),
        ("notify.other.mail = 'root'", NEVER, "there is no [notify.t] in the configuration; known are other"),
        ("notify.t.mail = ", 78, "is not a TOML file"),  # somebody may be about to write it
    ],
)
def test_a_target_that_is_gone_takes_one_line(delivered, configuration, code, told):
    delivered.config.write_text(configuration)

    done = delivered.run()

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert told in done.stderr


# --- words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "nightly failed (exit code 3) on db1"),
        ({"outcome": None, "exit_code": None}, "nightly failed on db1"),
        (
            {"failures": 3, "outcome": "signal", "signal": 9},
            "nightly failed 3 times in a row (SIGKILL) on db1",
        ),
        ({"event": "recovered", "failures": 3}, "nightly recovered after 3 failures on db1"),
        ({"event": "recovered"}, "nightly recovered on db1"),
        ({"event": "succeeded"}, "nightly succeeded on db1"),
        ({"event": "started"}, "nightly started on db1"),
        ({"event": "missed"}, "nightly was missed on db1"),
        ({"event": "missed", "count": 12}, "nightly was missed 12 times on db1"),
        ({"event": "late"}, "nightly is late on db1"),
        ({"event": "test"}, "test of [notify.t] on db1"),
        ({"subject": "calls to app.x", "schedule": None, "job": None}, "calls to app.x are paused on db1"),
        ({"subject": "a\nBcc: eve@example.org"}, "a␊Bcc: eve@example.org failed (exit code 3) on db1"),
        ({"subject": "x" * 1_000}, f"{'x' * 199}… failed (exit code 3) on db1"),
        (
            {
                "event": "summary",
                "summary": [
                    {"event": "failed", "count": 12, "subjects": ["nightly", "poll"]},
                    {"event": "recovered", "count": 1, "subjects": []},
                ],
            },
            "13 more notifications (12 failed, 1 recovered) on db1",
        ),
    ],
)
def test_a_headline_says_what_happened_and_where(fields, line):
    assert headline(notification(**fields)) == line


def test_a_text_says_what_happened_and_how_to_look(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")

    assert as_text(notification(reason="it\nbroke", failures=3)) == (
        "nightly failed 3 times in a row (exit code 3) on db1.\n\n"
        "when:      2026-11-27 03:00:12 UTC\n"
        "schedule:  nightly\n"
        "job:       12\n"
        "command:   /usr/local/bin/backup --all\n"
        "queue:     default\n"
        "ended:     exit code 3\n"
        "attempts:  2\n"
        "failures:  3 in a row\n"
        "reason:    it␊broke\n\n"
        "For details:\n\n"
        "  bgctl show 12\n"
        "  bgctl logs 12\n"
        "  bgctl schedule history nightly\n"
    )


def test_a_summary_names_what_it_sums_up():
    summary = [
        {"event": "failed", "count": 12, "subjects": ["nightly", "po\nll"]},
        {"event": "recovered", "count": 1, "subjects": []},
    ]

    text = as_text(notification(TEST, event="summary", summary=summary))

    assert "They exceed per_minute of [notify.t]." in text
    assert "failed:    12: nightly, po␊ll\nrecovered: 1\n" in text
    assert text.endswith("\n\n  bgctl list --state failed\n")


def test_a_test_says_that_it_is_one():
    text = as_text(notification(TEST))

    assert "This is a test" in text
    assert "bgctl" not in text


# --- output -----------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path):
    return tmp_path / "12.1.log"


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", ()),
        (b"\n", ("",)),
        (b"one\ntwo", ("one", "two")),
        (b"one\n\ntwo\n", ("one", "", "two")),
        (b"".join(b"%d\n" % number for number in range(50)), tuple(f"{number}" for number in range(30, 50))),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07plain \x1b(B\x1b7end", ("red plain end",)),
        (b" 10%\r 99%\r100%\r\n", ("100%",)),
        (b"nul \0, bell \a, \xff, \xc3\xbc, \xe2\x80\xae\n", ("nul ␀, bell , �, ü, <U+202E>",)),
        (b"a\tb", ("a       b",)),
        (b"\x1b]0;no end\nend \x1b\n", ("␛]0;no end", "end ␛")),
        (b"x" * 3_000 + b"end\n", (f"…{'x' * (MAX_LINE - 4)}end",)),
        (b"x" * 70_000 + b"\nend\n", (f"…{'x' * (MAX_LINE - 1)}", "end")),
    ],
)
def test_the_last_lines_can_be_shown_anywhere(log, data, lines):
    log.write_bytes(data)

    assert last_lines(str(log)) == lines


def test_a_line_of_a_gigabyte_is_read_from_its_end(log):
    with log.open("wb") as file:
        file.truncate(1 << 30)  # a hole
        file.seek(1 << 30)
        file.write(b"end")

    [line] = last_lines(str(log))

    assert line == f"…{'␀' * (MAX_LINE - 4)}end"


def test_a_line_whose_beginning_was_not_read_says_so(log):
    lines = b"x" * 60_000 + b"\n" + b"y" * 10_000 + b"\n"
    log.write_bytes(lines * 2)

    assert [line[:2] for line in last_lines(str(log))] == ["…x", "…y"]


def test_a_log_over_its_limit_ends_in_its_last_part(log):
    log.write_bytes(b"head\n")
    log.with_name("12.1.log.100").write_bytes(b"one\ntw")
    log.with_name("12.1.log.106").write_bytes(b"o\nthree\n")
    log.with_name("12.1.log.times").write_bytes(b"no output")
    log.with_name("12.1.log.tmp.1").write_bytes(b"no output")

    assert last_lines(str(log)) == ("one", "two", "three")


def test_a_log_without_gap_is_read_whole(log):
    log.write_bytes(b"head ")
    log.with_name("12.1.log.5").write_bytes(b"and tail\n")

    assert last_lines(str(log)) == ("head and tail",)


@pytest.mark.parametrize("kind", ["none", "gone", "folder", "pipe", "no folder"])
def test_a_log_that_cannot_be_read_has_no_lines(log, kind):
    if kind == "folder":
        log.mkdir()
    if kind == "pipe":
        os.mkfifo(log)
    if kind == "no folder":
        log /= "nowhere"

    assert last_lines(None if kind == "none" else str(log)) == ()


# --- mail -------------------------------------------------------------------------------------------------

needs_msmtp = pytest.mark.skipif(MSMTP is None, reason="NOT TESTED: there is no msmtp on this machine")


class Mailbox:
    """What an SMTP server takes; `refusal` is its answer to a mail that it does not take."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.refusal = ""

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.refusal:
            return self.refusal
        self.envelopes.append(envelope)
        return "250 taken"

    def mails(self) -> list[EmailMessage]:
        return [
            message_from_bytes(each.original_content or b"", policy=policy.default) for each in self.envelopes
        ]


@pytest.fixture
async def mailbox(delivered):
    """Serve SMTP on a port of its own, and provide a sendmail that knows it."""
    box = Mailbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(box, hostname="mx", loop=loop), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = delivered.folder / ".msmtprc"
    settings.write_text(f"account default\nhost 127.0.0.1\nport {port}\nfrom bgd@example.org\n")
    settings.chmod(0o600)
    (delivered.folder / "bin").mkdir()
    (delivered.folder / "bin/sendmail").symlink_to(str(MSMTP))
    delivered.env["PATH"] = f"{delivered.folder}/bin:{os.environ['PATH']}"
    delivered.config.write_text("notify.t.mail = 'ops@example.org'")
    yield box
    server.close()
    await server.wait_closed()


@needs_msmtp
async def test_a_mail_arrives(delivered, mailbox):
    log = delivered.folder / "12.2.log"
    log.write_bytes(b"all is well\n.\n\x1b[31mno, it is not\n")
    strange = {"subject": "nächtlich\nBcc: eve@example.org", "name": "x\r\nBcc: eve@example.org\r\n\r\n"}

    done = await asyncio.to_thread(delivered.run, FAILED | strange | {"log": str(log)})

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [envelope] = mailbox.envelopes
    assert envelope.rcpt_tos == ["ops@example.org"]
    [mail] = mailbox.mails()
    assert mail["To"] == "ops@example.org"
    assert mail["Subject"] == f"nächtlich␊Bcc: eve@example.org failed (exit code 3) on {HOST}"
    assert mail["Message-ID"] == f"<0123456789abcdef.bgd@{HOST}>"
    assert mail["Date"].datetime.isoformat() == "2026-11-27T03:00:12+00:00"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Bcc"] is None
    text = mail.get_content().replace("\r\n", "\n")
    assert "  bgctl logs 12\n" in text
    assert text.endswith("Its last lines of output:\n\n  all is well\n  .\n  no, it is not\n")


@given(text(characters(exclude_categories=["Cs"])), text(characters(exclude_categories=["Cs"])))
def test_a_mail_says_the_same_with_any_name(name, line):
    told = notification(FAILED, one_line(line), subject=name, command=name)

    mail = message_from_bytes(delivery.as_mail(told, "ops@example.org"), policy=policy.default)

    assert len(mail.keys()) == 8
    assert mail["Subject"].split() == headline(told).split()
    assert mail.get_content().rstrip() == f"{as_text(told)}{delivery.as_quote(told.output)}".rstrip()


@needs_msmtp
async def test_a_mail_that_is_sent_again_is_the_same_mail(delivered, mailbox):
    await asyncio.to_thread(delivered.run, TEST)
    await asyncio.to_thread(delivered.run, TEST)

    first, second = mailbox.mails()
    assert first["Message-ID"] == second["Message-ID"]
    assert "This is a test" in first.get_content()


@needs_msmtp
async def test_a_mail_that_the_server_refuses_fails(delivered, mailbox):
    mailbox.refusal = "451 try again later"

    done = await asyncio.to_thread(delivered.run)

    assert done.returncode != 0
    assert "try again later" in done.stderr


def test_without_sendmail_a_mail_takes_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(delivery, "SENDMAIL_FOLDERS", str(tmp_path))

    with pytest.raises(
        NotDelivered, match=r"\[notify.t\] needs sendmail, which is not on PATH .* install"
    ) as told:
        delivery.deliver(notification(), "t", NotifyTarget(mail="root"))

    assert told.value.exit_code == 127


# --- a ping -----------------------------------------------------------------------------------------------


class Answer(msgspec.Struct):
    """What the server says, and what it got: the first line of each request, and its body."""

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes = b"OK"
    requests: list[tuple[str, str]] = []
    silence: str = ""  # "whole": it says nothing; "slow": it says a byte now and then; "rude": no HTTP
    over: Event = msgspec.field(default_factory=Event)


class Handler(BaseHTTPRequestHandler):
    answer: Answer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.answer.requests.append((self.path, body))
        if self.answer.silence == "rude":
            self.wfile.write(b"220 SMTP here\r\n\r\n")
            return
        while self.answer.silence and not self.answer.over.wait(0.01):
            if self.answer.silence == "slow":
                self.wfile.write(b"H")
        if not self.answer.silence:
            self.send_response(self.answer.status)
            for name, value in self.answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(self.answer.body)

    do_GET = do_POST  # noqa: N815 - a name that the base class looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def http_server(certificate: trustme.LeafCert | None = None) -> Iterator[tuple[str, Answer]]:
    """Serve on a port of its own; yield its address and what it answers and got."""
    answer = Answer(headers={}, requests=[])
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handling", (Handler,), {"answer": answer}))
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that gives up is no error
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    scheme = "http" if certificate is None else "https"
    yield f"{scheme}://localhost:{server.server_port}/{SECRET}", answer
    answer.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """Trust the authority."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))


@pytest.fixture
def server(authority, trusted):  # noqa: ARG001 - so that its certificate is trusted
    with http_server(authority.issue_cert("localhost")) as (url, answer):
        yield url, answer


def refusal_of(url: str) -> str:
    """Return why a ping was not taken; it never has the secret in it."""
    with pytest.raises(NotDelivered) as refusal:
        ping(notification(), "t", url)
    assert SECRET not in str(refusal.value)
    assert refusal.value.exit_code == 1
    return str(refusal.value)


def test_a_ping_arrives_over_tls(server, delivered):
    url, answer = server
    log = delivered.folder / "12.2.log"
    log.write_bytes(
        "ü".encode() * 900 + b"\n" + b"".join(b"%d" % number * 900 + b"\n" for number in range(10))
    )
    delivered.config.write_text(f"notify.t.url = '{url}'")
    delivered.env |= {"SSL_CERT_FILE": os.environ["SSL_CERT_FILE"]}

    done = delivered.run(FAILED | {"log": str(log)})

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [(path, body)] = answer.requests
    assert path.startswith(f"/{SECRET}/fail?rid=")
    assert body.startswith(f"nightly failed (exit code 3) on {HOST}.\n")
    assert body.endswith(f"{'9' * 900}\n")
    assert "ü" not in body
    assert MAX_PING - 2_000 < len(body.encode()) <= MAX_PING


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"event": "started"}, "/start"),
        ({"event": "succeeded"}, ""),
        ({"event": "recovered"}, ""),
        ({"event": "failed"}, "/fail"),
        ({"event": "missed"}, "/fail"),
        ({"event": "late"}, "/fail"),
        ({"event": "test"}, ""),
        ({"event": "summary", "summary": [{"event": "succeeded", "count": 2}]}, ""),
        ({"event": "summary", "summary": [{"event": "started", "count": 2}]}, "/start"),
        (
            {
                "event": "summary",
                "summary": [{"event": "recovered", "count": 2}, {"event": "late", "count": 1}],
            },
            "/fail",
        ),
    ],
)
def test_each_event_has_its_path(fields, path):
    assert delivery.ping_url(notification(TEST, **fields), "https://hc-ping.com/UUID") == (
        f"https://hc-ping.com/UUID{path}"
    )


def test_start_and_end_of_a_job_belong_together():
    start, end = (
        delivery.ping_url(notification(event=event), "https://hc-ping.com/UUID").rpartition("?rid=")[2]
        for event in ("started", "failed")
    )
    other = delivery.ping_url(notification(event="started", job=13), "https://hc-ping.com/UUID")

    assert start == end
    assert start not in other


@pytest.mark.parametrize(
    ("url", "called"),
    [
        ("https://hc.example.org", "https://hc.example.org/fail"),
        (
            "https://hc.example.org:8000/ping/key/slug/?create=1",
            "https://hc.example.org:8000/ping/key/slug/fail?create=1",
        ),
    ],
)
def test_the_rest_of_an_address_is_kept(url, called):
    assert delivery.ping_url(notification(FAILED, job=None), url) == called


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_somebody_else_is_refused(authority):
    with http_server(authority.issue_cert("hc.example.org")) as (url, answer):
        assert "its certificate is not trusted: Hostname mismatch" in refusal_of(url)
        assert answer.requests == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_that_nobody_vouches_for_is_refused():
    with http_server(trustme.CA().issue_cert("localhost")) as (url, answer):
        assert "its certificate is not trusted: unable to get local issuer" in refusal_of(url)
        assert answer.requests == []


@pytest.mark.usefixtures("trusted")
def test_a_server_without_tls_is_refused():
    with http_server() as (url, answer):
        assert "TLS failed: " in refusal_of(url.replace("http:", "https:"))
        assert answer.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server, status):
    url, answer = server
    answer.status, answer.headers = status, {"Location": f"{url}/elsewhere"}

    assert f"the server of [notify.t] answered {status}, a redirect" in refusal_of(url)
    assert len(answer.requests) == 1


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_refusal_of_the_server_takes_one_line(server, status):
    url, answer = server
    answer.status, answer.body = status, f"there is no /{SECRET}".encode()

    assert refusal_of(url) == f"the server of [notify.t] answered {status}"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"OK (not found)", "it has no check with this address"),
        (b"OK (rate limited)", "it was pinged too often"),
    ],
)
def test_a_ping_that_the_server_ignores_is_not_delivered(server, body, why):
    url, answer = server
    answer.body = body

    assert refusal_of(url) == f"the server of [notify.t] ignored the ping: {why}"


@pytest.mark.parametrize("silence", ["whole", "slow"])
def test_a_server_has_only_so_much_time(server, monkeypatch, silence):
    url, answer = server
    answer.silence = silence
    monkeypatch.setattr(delivery, "TIMEOUT", 0.2)

    assert refusal_of(url) == "the server of [notify.t] was not reached: no answer within 0.2 seconds"


def test_a_server_that_does_not_speak_http_is_told(server):
    url, answer = server
    answer.silence = "rude"

    assert refusal_of(url) == "the server of [notify.t] was not reached: it does not speak HTTP"


def test_nobody_at_the_address_is_told():
    with http_server() as (gone, _):
        pass

    assert refusal_of(gone) == "the server of [notify.t] was not reached: Connection refused"
    assert "was not reached: " in refusal_of(f"https://{'x' * 64}.example.org/{SECRET}")


def test_a_proxy_gets_only_what_is_encrypted(server, monkeypatch):
    url, answer = server
    with http_server() as (gone, _):
        pass
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, gone)

    assert refusal_of(url) == "the server of [notify.t] was not reached: Connection refused"
    assert answer.requests == []
    with http_server() as (plain, plain_answer):
        ping(notification(), "t", plain)
        assert len(plain_answer.requests) == 1
