"""Encodings besides UTF-8: bytes pass unchanged or are refused, and JSON is valid in any locale."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bgctl.terminal import TerminalEscaper
from tests.support import DEADLINE, Daemon

LATIN_1 = "de_DE.ISO-8859-1"
STEERING = "\x1b]0;owned\x07\x9b2J\u202e\x7f"
SUBMITS = """
import sys
from bgd import Client
with Client() as client:
    print(client.submit(["printf", "%s", sys.argv[1]], env={"WORD": sys.argv[1]}).id)
"""


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory) -> dict[str, str]:
    """Return the variables that give a program a Latin-1 locale."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        pytest.skip("NOT RUN IN LATIN-1: there is no localedef")
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", folder / LATIN_1]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"NOT RUN IN LATIN-1: {made.stderr.decode().strip()}")
    return {"LOCPATH": str(folder), "LC_ALL": LATIN_1}


@pytest.fixture(params=["C", "C.UTF-8", "latin_1"])
def locale(request) -> dict[str, str]:
    if request.param == "latin_1":
        variables: dict[str, str] = request.getfixturevalue("latin_1")
        return variables
    return {"LC_ALL": request.param}


def bgctl(
    daemon: Daemon, variables: dict[str, str], *words: str | bytes, cwd: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    return python(daemon, variables, "-m", "bgctl", *words, cwd=cwd)


def python(
    daemon: Daemon, variables: dict[str, str], *words: str | bytes, cwd: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *words],
        env=daemon.env | variables,
        cwd=cwd or daemon.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )


def test_output_bytes_pass_unchanged(daemon, locale):
    script = r"printf '\351\303\251\377\000\r\n'"
    ran = bgctl(daemon, locale, "run", "sh", "-c", script)

    assert ran.stdout == b"\xe9\xc3\xa9\xff\0\r\n", ran.stderr
    assert bgctl(daemon, locale, "logs").stdout == ran.stdout


def test_arguments_variables_and_folders_reach_a_job_with_their_bytes(daemon, locale):
    word = "größe".encode()
    folder = os.fsencode(daemon.folder) + b"/" + word
    Path(os.fsdecode(folder)).mkdir(exist_ok=True)

    script = 'printf %s "$1" "$SET" "$INHERITED"; pwd'
    variables = locale | {"INHERITED": word.decode()}
    options: list[str | bytes] = ["--env", b"SET=" + word, "--", "sh", "-c", script, "sh", word]
    ran = bgctl(daemon, variables, "run", *options, cwd=folder)

    assert ran.stdout == 3 * word + folder + b"\n", ran.stderr


def test_arguments_that_are_not_utf_8_are_refused(daemon, locale):
    ran = bgctl(daemon, locale, "run", "printf", "%s", b"caf\xe9")

    assert ran.returncode not in {0, 70}
    assert ran.stdout == b""
    assert b"UTF-8" in ran.stderr
    assert ran.stderr.count(b"\n") == 1


def test_a_daemon_in_another_locale_passes_the_same_bytes_to_jobs(latin_1, own_daemon):
    own_daemon.stop()
    own_daemon.env |= latin_1
    own_daemon.start()

    word = "größe".encode()
    utf_8 = {"LC_ALL": "C.UTF-8"}
    ran = bgctl(own_daemon, utf_8, "run", "sh", "-c", 'printf %s "$1"', "sh", word)

    assert ran.stdout == word, ran.stderr


def test_a_client_in_another_locale_sends_its_bytes_and_warns_about_invalid_ones(daemon, locale):
    variables = locale | {"BGD_SOCKET": str(daemon.socket), "CAFE": os.fsdecode(b"caf\xe9")}

    done = python(daemon, variables, "-c", SUBMITS, "größe".encode())

    assert done.returncode == 0, done.stderr
    assert b"UserWarning: not passed on, because not UTF-8: CAFE" in done.stderr
    job = done.stdout.decode().strip()
    assert bgctl(daemon, {}, "wait", job).returncode == 0
    assert bgctl(daemon, {}, "logs", job).stdout == "größe".encode()


def test_json_is_ascii_in_any_locale(daemon, locale):
    word = STEERING + "größe"
    job = (
        bgctl(daemon, {"LC_ALL": "C.UTF-8"}, "submit", "--hold", "echo", word.encode())
        .stdout.decode()
        .strip()
    )

    for options in (["show", job], ["list", "--limit", "1"]):
        shown = bgctl(daemon, locale, *options, "--json").stdout
        assert not set(shown.rstrip(b"\n")) - set(range(0x20, 0x7F))
        found = json.loads(shown)
        assert (found[0] if isinstance(found, list) else found)["argv"] == ["echo", word]


def test_json_of_output_is_ascii_and_valid(daemon, locale):
    ran = bgctl(daemon, locale, "run", "--json", "printf", r"\033\303\266\351\342\200\256\177")

    said = [json.loads(line) for line in ran.stdout.splitlines()]
    assert not set(ran.stdout.replace(b"\n", b"")) - set(range(0x20, 0x7F))
    assert "".join(part.get("data", "") for part in said) == "\x1bö\N{REPLACEMENT CHARACTER}\u202e\x7f"


@pytest.mark.parametrize(
    "words",
    [
        ["show", STEERING],
        [f"--{STEERING}"],
        ["run", f"/nowhere/{STEERING}"],
        ["run", "--cwd", f"/nowhere/{STEERING}", "true"],
        ["run", "--stdin", f"/nowhere/{STEERING}", "true"],
        ["submit", "--name", STEERING, "true"],
        ["call", STEERING],
        ["--config", f"/nowhere/{STEERING}", "info"],
        ["--socket", f"/nowhere/{STEERING}", "info"],
        ["backup", f"/nowhere/{STEERING}"],
        ["edit", "--after", STEERING, "1"],
    ],
)
def test_errors_escape_control_characters(daemon, words):
    done = bgctl(daemon, {"LC_ALL": "C.UTF-8"}, *(word.encode() for word in words))

    text = done.stderr.decode()
    assert done.returncode not in {0, 70}
    assert not set(text.rstrip("\n")) & set("\x1b\x07\x9b\u202e\x7f\n"), text


def test_a_terminal_gets_output_in_its_own_encoding():
    assert TerminalEscaper("iso8859-1").feed(b"gr\xf6\xdfe\x9b\n") == "größe<U+009B>\n"
