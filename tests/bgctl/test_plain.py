"""The short way of plain command lines: on the wire and for the user it is the way of the client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET, msgpack
from msgspec.structs import fields, replace

from bgctl.plain import id_in, job_in, spec_of
from bgctl.plain_wire import Unusual, own_socket, unpacked
from bgctl.plain_wire import frame as short_frame
from bgd import Outcome, State
from bgd.client.connection import client_sockets
from bgd.client.programs import checked_command
from bgd.client.session import submit_frames
from bgd.core.explain import Cause, Explanation, Reason
from bgd.core.job import ACTIVE, FINAL, WAITING
from bgd.core.spec import JobSpec
from bgd.text import brief
from bgd.text.brief import BATCH_COUNTS
from bgd.wire import replies, requests
from bgd.wire.framing import HEADER, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_request, encode
from bgd.wire.replies import ErrorCode, Failed, Queues, Submitted
from bgd.wire.views import AttemptView, BatchView, Progress, QueueView, ResourceView
from tests.client.scripted import Peer, ScriptedDaemon, view_of
from tests.support import DEADLINE

TOKEN = bytes(range(16))


def submit_frame(argv, token):
    return short_frame({"type": "submit", "id": 1, "spec": spec_of(argv), "token": token})


def read(reply):
    return unpacked(encode(reply))


# --- what is sent -----------------------------------------------------------------------------------------

LENGTHS = [0, 1, 15, 16, 31, 32, 127, 128, 255, 256, 65_535, 65_536]


@pytest.fixture
def environment(monkeypatch):
    """Replace the environment of this process."""
    return lambda variables: monkeypatch.setattr(os, "environ", variables)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Be in an empty folder with a usual umask."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def by_the_client(argv):
    """Return the request that the client would send."""
    sent = submit_frames(1, spec=checked_command(argv, {}), token=TOKEN)
    return decode_request(sent[HEADER:])


def request_in(frame):
    assert int.from_bytes(frame[:HEADER], "big") == len(frame) - HEADER
    return decode_request(frame[HEADER:])


@pytest.mark.usefixtures("here")
def test_a_submit_has_these_fields(monkeypatch, environment):
    environment({"PATH": "/bin", "BGD_SOCKET": "/not/for/jobs", "INVOCATION_ID": "of the service"})
    monkeypatch.setattr(os, "getcwd", lambda: "/")

    assert request_in(submit_frame(["/bin/sh", "-c", "é"], TOKEN)) == requests.Submit(
        1, JobSpec(argv=("/bin/sh", "-c", "é"), cwd="/", umask=0o022, env={"PATH": "/bin"}), token=TOKEN
    )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.usefixtures("here")
def test_words_and_variables_of_any_length_are_sent_as_the_client_sends_them(environment, length):
    environment({"PATH": "/bin", "SHORT": "", "LONG": "v" * length})
    argv = ["/bin/true", "w" * min(length, 30_000), "é"]

    assert request_in(submit_frame(argv, TOKEN)) == by_the_client(argv)


@pytest.mark.parametrize("count", [1, 13, 14, 15, 16, 17, 300])
@pytest.mark.usefixtures("here")
def test_any_number_of_words_and_variables_is_sent_as_the_client_sends_it(environment, count):
    environment({f"NAME{number}": str(number) for number in range(count)})
    argv = ["/bin/true", *map(str, range(count))]

    assert request_in(submit_frame(argv, TOKEN)) == by_the_client(argv)


@pytest.mark.parametrize("session", ["", "s", "é" * 40])
@pytest.mark.usefixtures("here")
def test_a_session_is_sent_as_the_client_sends_it(environment, session):
    environment({"PATH": "/bin", "BGD_SESSION": session})

    sent = request_in(submit_frame(["/bin/true"], TOKEN))

    assert sent == by_the_client(["/bin/true"])
    assert sent.spec.session == (session or None)


@pytest.mark.parametrize("umask", [0, 0o022, 0o177, 0o277, 0o377, 0o777])
@pytest.mark.usefixtures("here")
def test_a_umask_is_sent_as_the_client_sends_it(umask):
    os.umask(umask)

    assert request_in(submit_frame(["/bin/true"], TOKEN)) == by_the_client(["/bin/true"])


@pytest.mark.parametrize(
    ("argv", "variables"),
    [
        ([], {}),
        ([""], {}),
        (["--help"], {}),
        (["/bin/true", "|", "wc"], {}),
        (["/no/such/program"], {}),
        (["folder"], {"PATH": "/"}),
        (["./file"], {}),
        (["true"], {"PATH": "/no/such/folder"}),
        (["/bin/true", "w" * 100_000], {}),
        (["/bin/true"], {"_BGCTL_COMPLETE": "bash_complete"}),
        (["/bin/true"], {"TRACEPARENT": "00-..."}),
    ],
)
def test_what_needs_a_word_is_left_to_the_client(environment, here, argv, variables):
    environment(variables)
    (here / "file").touch(mode=0o600)
    (here / "folder").mkdir()

    with pytest.raises(Unusual):
        submit_frame(argv, TOKEN)


@pytest.mark.parametrize("text", ["\udcff", "a\udc80"])
@pytest.mark.usefixtures("here")
def test_bytes_that_are_not_utf_8_are_left_to_the_client(environment, text):
    environment({"NAME": text})

    with pytest.raises(UnicodeError):
        submit_frame(["/bin/true"], TOKEN)


# --- what is answered -------------------------------------------------------------------------------------


@pytest.mark.parametrize("job_id", [1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1])
def test_the_id_in_a_usual_answer_is_read(job_id):
    assert job_in(read(Submitted(1, [job_id]))) == job_id


@pytest.mark.parametrize(
    "answer",
    [
        Submitted(1, []),
        Submitted(1, [1, 2]),
        Submitted(1, [1], created=False),
        Submitted(1, [1], found=[1]),
        Submitted(1, [1], obstacle="no slots"),
        replies.Done(1),
    ],
)
def test_an_unusual_answer_is_left_to_the_client(answer):
    with pytest.raises(Unusual):
        job_in(read(answer))


@pytest.mark.parametrize("number", [b"", b"\xa1", b"\xc0", b"\xcc", b"\xcc\x80\x80", b"\xcd\x80"])
def test_bytes_that_are_no_number_are_left_to_the_client(number):
    usual = encode(Submitted(1, [5]))

    with pytest.raises(Unusual):
        job_in(unpacked(usual.replace(b"\x91\x05", b"\x91" + number)))


VALUES: list[Any] = [
    None,
    True,
    False,
    1.5,
    -0.0,
    b"",
    b"b" * 300,
    b"b" * 70_000,
    [],
    list(range(70_000)),
    {},
]
VALUES += ["", "é" * 15, "é" * 16, "x" * 255, "x" * 256, "x" * 70_000, [[{"a": [1]}]]]
VALUES += [number for bits in range(64) for number in (2**bits - 1, 2**bits, 1 - 2**bits, -(2**bits))]
VALUES += [{str(number): number for number in range(count)} for count in (15, 16, 70_000)]


def test_a_message_is_read_as_msgspec_reads_it():
    message = {"values": VALUES}

    assert unpacked(msgpack.encode(message)) == message


@pytest.mark.parametrize(
    "payload", [b"", b"\x01", b"\x81\xa1a", b"\x81\xa9a", b"\x81\x90\x01", b"\x80\x80", b"\xc1"]
)
def test_bytes_that_are_no_message_are_left_to_the_client(payload):
    with pytest.raises(Unusual):
        unpacked(payload)


# --- which daemon -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_RUNTIME_DIR": "/run/user/0"},
        {"HOME": ""},
        {"HOME": "relative"},
        {"XDG_STATE_HOME": "/elsewhere"},
        {"XDG_CONFIG_HOME": "/elsewhere"},
        {"BGD_STATE_DIR": "/elsewhere"},
        {"BGD_CONFIG": "/elsewhere/bgd.toml"},
        {"BGD_SESSION": "any"},
    ],
)
@pytest.mark.parametrize("is_configured", [False, True])
def test_the_socket_is_the_one_that_the_client_tries_first(environment, here, variables, is_configured):
    if is_configured:
        (here / ".config/bgd").mkdir(parents=True)
        (here / ".config/bgd/bgd.toml").write_text('[daemon]\nsocket = "/elsewhere/bgd.sock"\n')
    environment({"HOME": str(here)} | variables)
    try:
        short = own_socket()
    except Unusual:
        assert is_configured or variables.keys() - {"XDG_RUNTIME_DIR", "BGD_SESSION"}
        return

    assert next(client_sockets(environ=os.environ)).path == short


# --- for the user -----------------------------------------------------------------------------------------


def answering(answer, newest=4):
    """Return a script that greets, and gives a request this answer; None: hangs up."""

    def script(peer):
        peer.greet(newest=newest)
        peer.receive()
        if answer is not None:
            peer.send_bytes(answer if isinstance(answer, bytes) else frame(encode(answer)))
            peer.wait_for_end()

    return script


def greeting(hello):
    """Return a script that hangs up after this first message."""

    def script(peer):
        peer.send_bytes(frame(encode(hello)))
        peer.wait_for_end()

    return script


USUAL = answering(Submitted(1, [9]))
WITH_OBSTACLE = answering(Submitted(1, [9], obstacle="no\nslots"))
REFUSED = answering(Failed(1, ErrorCode.NOT_ALLOWED, "not\nyou"))
ANOTHER = answering(replies.Done(1))
NONSENSE = answering(b"\x00\x00\x00\x01\xc1")
LOST = answering(None)
FULL = greeting(Failed(0, ErrorCode.FULL, "too many connections"))
FOREIGN = greeting(Hello(9, "9.0", "bgd"))
WITHOUT_TOKENS = answering(Submitted(1, [9]), newest=UNSET)
# What is played for `submit true`, and for the client alone
CASES = {
    "usual": ([USUAL], [USUAL]),
    "obstacle": ([WITH_OBSTACLE] * 2, [WITH_OBSTACLE]),
    "refused": ([REFUSED] * 2, [REFUSED]),
    "another reply": ([ANOTHER] * 2, [ANOTHER]),
    "nonsense": ([NONSENSE] * 2, [NONSENSE]),
    "lost": ([LOST, USUAL], [LOST, USUAL]),
    "lost twice": ([LOST, LOST, USUAL], [LOST, LOST, USUAL]),
    "full": ([FULL] * 2, [FULL]),
    "another protocol": ([FOREIGN] * 2, [FOREIGN]),
    "no tokens": ([greeting(Hello(PROTOCOL, "0.1")), WITHOUT_TOKENS], [WITHOUT_TOKENS]),
    "answer to another request": ([answering(Submitted(2, [8])), USUAL], [USUAL]),
}


def bgctl(scripts, *arguments, stdout=subprocess.PIPE):
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        daemon = ScriptedDaemon(f"{folder}/bgd.sock", tuple(scripts))
        done = finished(folder, arguments, stdout)
        daemon.finish()
        return done


def finished(folder, arguments, stdout=subprocess.PIPE):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bgctl", *arguments],
        env=os.environ | {"BGD_SOCKET": f"{folder}/bgd.sock"},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.replace(folder, "FOLDER")


@pytest.mark.parametrize("case", CASES)
def test_the_user_gets_what_the_client_alone_says(case):
    plain, client = CASES[case]

    assert bgctl(plain, "submit", "true") == bgctl(client, "submit", "--", "true")


def test_a_full_disk_is_reported_as_by_the_client_alone():
    with Path("/dev/full").open("wb") as full:
        plain = bgctl([USUAL, USUAL], "submit", "true", stdout=full)

        assert plain == bgctl([USUAL], "submit", "--", "true", stdout=full)
        assert "job 9 is queued" in plain[2]


def test_a_submit_that_was_not_answered_is_sent_again_with_its_token():
    heard = []

    def lost(peer):
        peer.greet(newest=4)
        heard.append(peer.receive())

    def usual(peer):
        peer.greet(newest=5)
        heard.append(peer.receive())
        peer.send(Submitted(1, [9]))

    assert bgctl([lost, usual], "submit", "true") == (0, "9\n", "")
    assert heard[1] == replace(heard[0], again=4)


SUCCEEDED = replace(view_of(9), finished_at=2.0)


def playing(*parts, views=(SUCCEEDED,), hangs_up_after=None, waits_for=None):
    """Return a script that answers all requests about a job with this output: attempts and their bytes."""

    def script(peer):
        peer.greet(newest=4)
        with suppress(EOFError):
            while True:
                if answer(peer, peer.receive()) is False:
                    return

    def answer(peer, request):
        match request:
            case requests.Submit():
                peer.send(Submitted(request.id, [9]))
            case requests.Logs():
                sent = log_parts(request, parts)
                peer.send(*sent[:hangs_up_after])
                if hangs_up_after is not None:
                    return False
                peer.send(replies.End(request.id))
            case requests.Wait() | requests.List():
                peer.send(*(replies.JobsPart(request.id, [view]) for view in views), replies.End(request.id))
            case requests.Show() | requests.Explain():
                peer.send(*about(request, views[0], waits_for))
            case _:
                raise TypeError(request)
        return True

    return script


def about(request, view, waits_for):
    if waits_for is not None:
        view = view_of(9, State.QUEUED)
    if isinstance(request, requests.Explain):
        reasons = () if waits_for is None else (waits_for,)
        return [replies.Explained(request.id, view, Explanation(reasons=reasons))]
    attempts = replies.AttemptsPart(request.id, [ATTEMPT])
    return [replies.Shown(request.id, view), attempts, replies.End(request.id)]


def log_parts(request, parts):
    found: list[replies.LogPart] = []
    offsets: dict[int, int] = {}
    for attempt, data in parts:
        skipped = 0
        offset = offsets.get(attempt, 0)
        offsets[attempt] = offset + len(data)
        if request.offset is not None:
            if attempt < request.attempt:
                continue
            if attempt == request.attempt:
                skipped = max(request.offset - offset, 0)
        found.append(replies.LogPart(request.id, attempt, data[skipped:], offset=offset + skipped))
    return found


_UNKNOWN: dict[str, Any] = {field.name: None for field in fields(AttemptView) if field.required}
ATTEMPT = AttemptView(**_UNKNOWN | {"attempt": 1, "outcome": Outcome.SUCCEEDED, "log_path": "/log"})
FAILED = replace(view_of(9, State.FAILED), outcome=Outcome.EXIT, exit_code=3, finished_at=2.0)
KILLED = replace(FAILED, outcome=Outcome.SIGNAL, exit_code=None, signal=9)
VIEWS = [
    FAILED,
    replace(view_of(8), argv=["sh", "-c", "echo 'a  b' \t$x"], name="a name", run_seconds=3.25),
    replace(view_of(7, State.RUNNING), argv=["é" * 40], progress=Progress(0.29, "\x1bof it"), suspended=True),
    replace(view_of(6, State.BLOCKED), target="m:f", arguments='{"args": ["é", 1], "kwargs": {"a": null}}'),
    replace(view_of(5, State.SCHEDULED), due_at=4e9, retry_until=60.0, tags=["t"], priority=-3),
    replace(view_of(4, State.BLOCKED), waits_for=[1, 2, 3, 70_000], retries=300, argv=[""]),
]
QUEUE = QueueView(name="default", slots=None, configured_slots=None, paused=False, counts={"running": 3})
BEHIND = Reason(cause=Cause.SLOTS, slots=4, taken=4, wanted=2, ahead=1)
QUEUES = Queues(1, slots=4, configured_slots=4, taken=3, paused=False, queues=[QUEUE])
OF_QUEUES = {
    "usual": QUEUES,
    "all paused": replace(QUEUES, paused=True),
    "limited": replace(
        QUEUES,
        queues=[
            QUEUE,
            replace(QUEUE, name="é\n", slots=2, paused=True, rate="9/m", counts={"held": 1}),
            replace(QUEUE, name="rated", rate="1/d", opens_at=4e9, weight=3),
            replace(QUEUE, name="weighty", weight=300),
        ],
        resources=[ResourceView(name="gpu", tokens=2, taken=1, waiting=70_000)],
    ),
    "waits": replace(QUEUES, queues=[replace(QUEUE, why_waiting=(BEHIND,)), QUEUE]),
    "waits for nothing in words": replace(QUEUES, queues=[replace(QUEUE, paused=True)]),
}
COUNTS: dict[str, Any] = dict.fromkeys(BATCH_COUNTS, 300)
BATCH = BatchView(id=3, name=None, user="u", created_at=1.0, **COUNTS, is_whole=True, finished_at=None)
BATCHES = [BATCH, replace(BATCH, id=2, name="é  \x1b", is_whole=False), replace(BATCH, id=1, finished_at=2.0)]
PLAIN = [(1, b"one\ntwo"), (1, b" and\nthr\xc3"), (1, b"\xa9\nend")]
# What a job writes or how it ends, and whether the client is not needed for `run` and for `logs`
JOBS = {
    "usual": (playing(*PLAIN), True, True),
    "nothing": (playing(), True, True),
    "fails": (playing((1, b"no\n"), views=[FAILED]), True, True),
    "fails silently": (playing(views=[FAILED]), True, True),
    "killed": (playing((1, b"no"), views=[KILLED]), False, True),
    "killed silently": (playing(views=[KILLED]), False, False),
    "carriage return": (playing((1, b"a\n10%"), (1, b"\r20%\n"), (1, b"b\n")), False, False),
    "zero": (playing((1, b"a\r\n\0b\rc"), (1, b"\rd")), False, False),
    "not UTF-8": (playing((1, b"a\n\xff\n"), (1, b"b\rc\n")), False, False),
    "attempts": (playing((1, b"a\nb"), (2, b"c\n")), False, False),
    "second attempt": (playing((2, b"a\nb"), (2, b"c\n")), True, True),
    "long line": (playing(*[(1, b"x" * 200_000)] * 7, (1, b"\rx\n")), False, False),
    "long output": (playing(*[(1, b"x\n" * 100_000)] * 7), True, False),
}


BY_THE_CLIENT = ["--color", "auto"]  # the default, but the short way knows no options


class Listening(Peer):
    """A peer that keeps what it hears."""

    def __init__(self, connection, heard):
        super().__init__(connection)
        self._heard = heard

    def receive(self):
        self._heard.append(super().receive())
        return self._heard[-1]


class Daemon:
    """Plays a script for each connection, the last one for all that follow."""

    def __init__(self, path, scripts):
        self.connections = 0
        self.heard = []
        self._scripts = [*scripts]
        self._listener = socket.create_server(path, family=socket.AF_UNIX)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        with ThreadPoolExecutor() as pool, suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                pool.submit(
                    self._play, connection, self._scripts.pop(0) if self._scripts[1:] else self._scripts[0]
                )

    def _play(self, connection, script):
        with connection, suppress(EOFError, ConnectionError):
            script(Listening(connection, self.heard))

    def finish(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self._listener.close()


def played(scripts, *arguments, stdout=subprocess.PIPE):
    """Return what bgctl does, and the daemon that it asks."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        daemon = Daemon(f"{folder}/bgd.sock", scripts)
        try:
            return finished(folder, arguments, stdout), daemon
        finally:
            daemon.finish()


def played_on_terminal(scripts, *arguments):
    """Return what bgctl does and shows on a terminal, and the daemon that it asks."""
    master, terminal = os.openpty()
    with os.fdopen(terminal, "wb") as stdout, ThreadPoolExecutor() as pool:
        shown = pool.submit(read_to_end, master)
        (code, _, err), daemon = played(scripts, *arguments, stdout=stdout)
        stdout.close()
        return (code, shown.result(DEADLINE), err), daemon


def read_to_end(descriptor):
    pieces = []
    with suppress(OSError):  # the terminal is closed
        while piece := os.read(descriptor, 65_536):
            pieces.append(piece)
    os.close(descriptor)
    return b"".join(pieces)


def alike(script, *words, played=played):
    """Return whether the client is not needed for a command line; it has to do the same alone."""
    plain, daemon = played([script], *words)
    client, _ = played([script], *BY_THE_CLIENT, *words)

    assert plain == client
    return daemon.connections == 1


@pytest.mark.parametrize("case", JOBS)
def test_a_job_is_followed_as_by_the_client_alone(case):
    script, is_plain, _ = JOBS[case]

    assert alike(script, "run", "true") == is_plain


@pytest.mark.parametrize("case", JOBS)
def test_a_log_is_shown_as_by_the_client_alone(case):
    script, _, is_plain = JOBS[case]

    assert alike(script, "logs", "9") == is_plain


# What a job writes, and whether the client is not needed for `run` and for `logs` on a terminal
ON_TERMINAL = {
    "lines": (playing((1, b"one\n\ttwo\n"), (1, b"three\n")), True, True),
    "nothing": (playing(), True, True),
    "fails": (playing((1, b"no\n"), views=[FAILED]), True, True),
    "killed": (playing((1, b"no\n"), views=[KILLED]), False, True),
    "open line": (playing((1, b"one\ntw")), False, True),
    "fails in a line": (playing((1, b"one\ntw"), views=[FAILED]), False, True),
    "piece of a line": (playing((1, b"one\ntw"), (1, b"o\n")), False, True),
    "carriage return": (playing((1, b"a\n10%\r20%\n")), False, False),
    "color": (playing((1, b"a\n"), (1, b"\x1b[31mred\n")), False, False),
    "bell": (playing((1, b"a\n"), (1, b"\a\n")), False, False),
    "invisible": (playing((1, b"a\n"), (1, "\u115f\n".encode())), False, False),
    "attempts": (playing((1, b"a\n"), (2, b"b\n")), False, False),
}


@pytest.mark.parametrize("case", ON_TERMINAL)
def test_a_job_is_followed_on_a_terminal_as_by_the_client_alone(case):
    script, is_plain, _ = ON_TERMINAL[case]

    assert alike(script, "run", "true", played=played_on_terminal) == is_plain


@pytest.mark.parametrize("case", ON_TERMINAL)
def test_a_log_is_shown_on_a_terminal_as_by_the_client_alone(case):
    script, _, is_plain = ON_TERMINAL[case]

    assert alike(script, "logs", "9", played=played_on_terminal) == is_plain


@pytest.mark.parametrize("cause", [Cause.TURN, Cause.PAUSE])
def test_on_a_terminal_the_client_explains_why_a_job_waits(cause):
    script = playing((1, b"a\n"), waits_for=Reason(cause=cause))

    assert alike(script, "run", "true", played=played_on_terminal) == (cause is Cause.TURN)


@pytest.mark.parametrize(("views", "is_plain"), [([view_of(9)], True), ([FAILED], True), ([KILLED], False)])
def test_an_end_is_told_as_by_the_client_alone(views, is_plain):
    assert alike(playing(views=views), "wait", "9") == is_plain


@pytest.mark.parametrize("word", ["09", "0", "", "-1", "9,8", "٩", "last", "9" * 19])
def test_a_word_that_is_no_usual_id_is_left_to_the_client(word):
    assert id_in(word) == 0


@pytest.mark.parametrize(("views", "is_plain"), [(VIEWS, True), ([], False)])
def test_jobs_are_listed_as_by_the_client_alone(views, is_plain):
    assert alike(playing(views=views), "list") == is_plain


def replying(*answers):
    """Return a script that gives a request these answers."""

    def script(peer):
        peer.greet(newest=4)
        number = peer.receive().id
        peer.send(*(replace(each, id=number) for each in answers))
        peer.wait_for_end()

    return script


BLOCKED = replace(view_of(9, State.BLOCKED), name="é\n" * 30)
BY_JOBS = Reason(cause=Cause.JOBS, jobs=(1, 70_000), more=3)
UNTIL = Reason(cause=Cause.TIME, at=4e9)


@pytest.mark.parametrize(
    ("view", "reasons", "start", "is_plain"),
    [
        (BLOCKED, (BY_JOBS, UNTIL), 4e9, True),
        (view_of(9, State.QUEUED), (replace(BEHIND, holders=(1, 2), suspended=(2,)),), None, True),
        (view_of(9, State.QUEUED), (Reason(cause=Cause.TURN),), 1.0, True),
        (view_of(9, State.QUEUED), (), None, False),
        (replace(BLOCKED, reason="why\nelse"), (BY_JOBS,), None, False),
        (view_of(9, State.RUNNING), (Reason(cause=Cause.SUSPENSION, subject="9"),), None, False),
        (view_of(9), (), None, False),
    ],
)
def test_why_a_job_waits_is_told_as_by_the_client_alone(view, reasons, start, is_plain):
    explanation = Explanation(reasons=reasons, likely_start_at=start)

    def script(peer):
        peer.greet(newest=4)
        with suppress(EOFError):
            while True:
                request = peer.receive()
                if isinstance(request, requests.Explain):
                    peer.send(replies.Explained(request.id, view, explanation))
                else:
                    peer.send(replies.Shown(request.id, view), replies.End(request.id))

    assert alike(script, "explain", "9") == is_plain


@pytest.mark.parametrize(
    ("ids", "reasons", "is_plain"),
    [
        ([9], (BY_JOBS,), True),
        ([*range(30, 10, -1)], (BY_JOBS,), True),
        ([*range(30, 9, -1)], (BY_JOBS,), False),
        ([9], (), False),
        ([], (), False),
    ],
)
def test_why_jobs_wait_is_told_as_by_the_client_alone(ids, reasons, is_plain):
    def script(peer):
        peer.greet(newest=4)
        with suppress(EOFError):
            while True:
                request = peer.receive()
                if isinstance(request, requests.Explain):
                    view = view_of(request.job, State.BLOCKED)
                    peer.send(replies.Explained(request.id, view, Explanation(reasons=reasons)))
                else:
                    assert isinstance(request, requests.List)
                    assert {*(request.states or ())} == WAITING
                    views = [view_of(job, State.BLOCKED) for job in ids]
                    peer.send(replies.JobsPart(request.id, views), replies.End(request.id))

    assert alike(script, "explain") == is_plain


def acted(state=None, code=None, message=None):
    return replies.Acted(1, [replies.ActResult(9, state, code, message)])


@pytest.mark.parametrize(
    ("answer", "is_plain"),
    [
        (acted(State.CANCELLED), True),
        (acted(State.STOPPING), True),
        (acted(code=ErrorCode.REFUSED, message="job 9 has\nsucceeded"), False),
        (acted(code=ErrorCode.NO_SUCH_JOB, message="there is no job 9"), False),
        (Failed(1, ErrorCode.NOT_ALLOWED, "not\nyou"), False),
        (replies.Done(1), False),
    ],
)
def test_a_job_is_acted_on_as_by_the_client_alone(answer, is_plain):
    assert alike(replying(answer), "cancel", "9") == is_plain


def test_a_refused_verb_is_asked_for_anew():
    refused = replying(acted(code=ErrorCode.REFUSED, message="job 9 has succeeded"))
    _, daemon = played([refused], "cancel", "9")

    assert [each.repeated for each in daemon.heard] == [False, False]


def test_a_verb_that_was_not_answered_is_repeated():
    done, daemon = played([answering(None), replying(acted(State.CANCELLED))], "cancel", "9")

    assert done == (0, "9 cancelled\n", "")
    assert [each.repeated for each in daemon.heard] == [False, True]


def test_a_verb_whose_result_cannot_be_printed_is_repeated_to_report_that():
    usual = replying(acted(State.CANCELLED))
    with Path("/dev/full").open("wb") as full:
        plain, daemon = played([usual], "cancel", "9", stdout=full)
        client, _ = played([usual], *BY_THE_CLIENT, "cancel", "9", stdout=full)

    assert plain == client
    assert plain[0] != 0
    assert [each.repeated for each in daemon.heard] == [False, True]


@pytest.mark.parametrize("case", OF_QUEUES)
@pytest.mark.parametrize("words", [["queue"], ["queue", "list"]])
def test_queues_are_listed_as_by_the_client_alone(case, words):
    assert alike(replying(OF_QUEUES[case]), *words)


def test_a_cause_of_a_newer_daemon_is_left_to_the_client():
    def script(peer):
        peer.greet(newest=4, version="1.9.0")
        waiting = msgpack.decode(encode(OF_QUEUES["waits"])) | {"id": peer.receive().id}
        waiting["queues"][0]["why_waiting"][0]["cause"] = "weather"
        peer.send_bytes(frame(msgpack.encode(waiting)))
        peer.wait_for_end()

    assert not alike(script, "queue")


@pytest.mark.parametrize(
    ("batches", "is_plain"), [(BATCHES, True), (BATCHES * 7, True), ([BATCH] * 20, True), ([], False)]
)
def test_batches_are_listed_as_by_the_client_alone(batches, is_plain):
    script = replying(replies.BatchesPart(1, batches), replies.End(1))

    assert alike(script, "batch", "list") == is_plain


def of_another_version(changed, version):
    """Return a script that lists a job with these fields changed; UNSET: the daemon does not know them."""

    def script(peer):
        peer.greet(newest=4, version=version)
        view = msgpack.decode(msgpack.encode(FAILED)) | changed
        job = {name: value for name, value in view.items() if value is not UNSET}
        number = peer.receive().id
        peer.send_bytes(frame(msgpack.encode({"type": "jobs", "id": number, "jobs": [job]})))
        peer.send(replies.End(number))
        peer.wait_for_end()

    return script


def test_jobs_of_an_older_daemon_are_listed_without_what_it_does_not_know():
    older = of_another_version({"retry_until": UNSET, "suspended": UNSET}, "1.0.0")
    (code, out, err), _ = played([older], "list")

    assert (code, err) == (0, "")
    assert out.splitlines()[1].startswith("9 ")
    assert not alike(older, "list")


def test_a_state_of_a_newer_daemon_is_an_error_that_names_both_versions():
    newer = of_another_version({"state": "parked"}, "1.9.0")
    (code, _, err), _ = played([newer], "list")

    assert code != 0
    assert "Invalid enum value 'parked'" in err
    assert "; the daemon is bgd 1.9.0, this program is bgd" in err
    assert len(err.splitlines()) == 1
    assert not alike(newer, "list")


@pytest.mark.parametrize("sent", range(4))
def test_output_that_broke_off_continues_where_it_stopped(sent):
    scripts = [playing(*PLAIN, hangs_up_after=sent), playing(*PLAIN)]

    assert played(scripts, "run", "true")[0] == (0, "one\ntwo and\nthré\nend", "")


@pytest.mark.parametrize(("words", "streams"), [(["run", "true"], 2), (["wait", "9"], 1)])
def test_a_daemon_that_hung_up_is_waited_for(words, streams):
    def answer_a_submit_only(peer):
        peer.greet(newest=4)
        while isinstance(request := peer.receive(), requests.Submit):
            peer.send(Submitted(request.id, [9]))

    def greet_only(peer):
        peer.greet(newest=4)

    with tempfile.TemporaryDirectory(prefix="bgd-") as folder, ThreadPoolExecutor() as pool:
        path = Path(folder, "bgd.sock")
        lost = ScriptedDaemon(str(path), (answer_a_submit_only,))
        told = pool.submit(finished, folder, words)
        lost.finish()
        path.unlink(missing_ok=True)
        assert not wait({told}, timeout=2.0).done
        back = ScriptedDaemon(str(path), (greet_only, *[playing(*PLAIN)] * streams))
        code, output, errors = told.result(DEADLINE)
        back.finish()

    assert (code, bool(output), errors) == (0, True, "")


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ("run true", None),
        ("list", None),
        ("wait 9", None),
        ("logs 9", None),
        ("cancel 9", [acted(State.CANCELLED)]),
        ("hold 9", [acted(State.HELD)]),
        ("release 9", [acted(State.QUEUED)]),
        ("queue", [QUEUES]),
        ("batch list", [replies.BatchesPart(1, [BATCH]), replies.End(1)]),
    ],
)
def test_the_daemon_is_asked_what_the_client_alone_asks(words, answers):
    def asked(*line):
        _, daemon = played([playing(*PLAIN) if answers is None else replying(*answers)], *line)
        return [
            replace(each, id=1, **dict.fromkeys({"token"} & {*each.__struct_fields__}))
            for each in daemon.heard
        ]

    assert asked(*words.split()) == asked(*BY_THE_CLIENT, *words.split())


def test_states_of_a_list_are_those_of_jobs():
    assert [set(states) for states in brief.GROUPS] == [ACTIVE, WAITING, FINAL]


def test_a_submit_without_options_makes_one_job(own_daemon):
    env = {name: value for name, value in own_daemon.env.items() if not name.startswith("BGD_")}
    ids = [
        subprocess.run(
            [sys.executable, "-P", "-m", "bgctl", "submit", *words],
            env=env,
            cwd=own_daemon.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        ).stdout
        for words in (["true"], ["--", "true"])
    ]

    assert ids == ["1\n", "2\n"]
    first, second = (own_daemon.shown(each.strip()) for each in ids)
    for name in ("argv", "cwd", "umask", "name", "queue", "priority", "retries"):
        assert first[name] == second[name]
