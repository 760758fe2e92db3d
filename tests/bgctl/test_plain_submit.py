"""The short way of `bgctl submit PROGRAM`: on the wire and for the user it is the way of the client."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from msgspec import UNSET, msgpack
from msgspec.structs import replace

from bgctl.plain_submit import Unusual, job_in, own_socket, submit_frame
from bgd.client.connection import client_sockets
from bgd.client.programs import checked_command
from bgd.client.session import submit_frames
from bgd.wire import replies
from bgd.wire.framing import HEADER, frame
from bgd.wire.messages import PROTOCOL, Hello, encode
from bgd.wire.replies import ErrorCode, Failed, Submitted
from tests.client.scripted import ScriptedDaemon
from tests.support import DEADLINE

TOKEN = bytes(range(16))

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
    """Return the client's frame, with the shortest form of the number of options in a spec.

    The client leaves room for all options before it knows which are set.
    """
    sent = submit_frames(1, spec=checked_command(argv, {}), token=TOKEN)
    return frame(msgpack.encode(msgpack.decode(sent[HEADER:])))


@pytest.mark.usefixtures("here")
def test_the_bytes_of_a_submit_are_these(monkeypatch, environment):
    environment({"PATH": "/bin", "BGD_SOCKET": "/not/for/jobs", "INVOCATION_ID": "of the service"})
    monkeypatch.setattr(os, "getcwd", lambda: "/")

    assert submit_frame(["/bin/sh", "-c", "é"], TOKEN) == (
        b"\x00\x00\x00\x5f\x84\xa4type\xa6submit\xa2id\x01\xa4spec\x84"
        b"\xa4argv\x93\xa7/bin/sh\xa2-c\xa2\xc3\xa9\xa3cwd\xa1/\xa5umask\x12\xa3env\x81\xa4PATH\xa4/bin"
        b"\xa5token\xc4\x10" + TOKEN
    )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.usefixtures("here")
def test_words_and_variables_of_any_length_are_sent_as_the_client_sends_them(environment, length):
    environment({"PATH": "/bin", "SHORT": "", "LONG": "v" * length})
    argv = ["/bin/true", "w" * min(length, 30_000), "é"]

    assert submit_frame(argv, TOKEN) == by_the_client(argv)


@pytest.mark.parametrize("count", [1, 13, 14, 15, 16, 17, 300])
@pytest.mark.usefixtures("here")
def test_any_number_of_words_and_variables_is_sent_as_the_client_sends_it(environment, count):
    environment({f"NAME{number}": str(number) for number in range(count)})
    argv = ["/bin/true", *map(str, range(count))]

    assert submit_frame(argv, TOKEN) == by_the_client(argv)


@pytest.mark.parametrize("umask", [0, 0o022, 0o177, 0o277, 0o377, 0o777])
@pytest.mark.usefixtures("here")
def test_a_umask_is_sent_as_the_client_sends_it(umask):
    os.umask(umask)

    assert submit_frame(["/bin/true"], TOKEN) == by_the_client(["/bin/true"])


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
    assert job_in(encode(Submitted(1, [job_id]))) == job_id


@pytest.mark.parametrize(
    "answer",
    [
        Submitted(1, []),
        Submitted(1, [1, 2]),
        Submitted(2, [1]),
        Submitted(1, [1], created=False),
        Submitted(1, [1], found=[1]),
        Submitted(1, [1], obstacle="no slots"),
        replies.Done(1),
    ],
)
def test_an_unusual_answer_is_left_to_the_client(answer):
    with pytest.raises(Unusual):
        job_in(encode(answer))


@pytest.mark.parametrize("number", [b"", b"\xa1", b"\xc0", b"\xcc", b"\xcc\x80\x80", b"\xcd\x80", b"\xff"])
def test_bytes_that_are_no_number_are_left_to_the_client(number):
    usual = encode(Submitted(1, [5]))

    with pytest.raises(Unusual):
        job_in(usual.replace(b"\x91\x05", b"\x91" + number))


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
        assert is_configured or variables.keys() - {"XDG_RUNTIME_DIR"}
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
}


def bgctl(scripts, *arguments, stdout=subprocess.PIPE):
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        daemon = ScriptedDaemon(f"{folder}/bgd.sock", tuple(scripts))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "bgctl", *arguments],
            env=os.environ | {"BGD_SOCKET": daemon.path},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        daemon.finish()
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
