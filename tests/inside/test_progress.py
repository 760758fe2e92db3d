"""Progress of a job: it arrives, and costs the job nothing, whatever happens to the daemon."""

from __future__ import annotations

import ast
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import pytest

from bgd.inside import bgd_job
from bgd.inside.bgd_job import _reporter, _wire
from bgd.wire import messages, requests
from bgd.wire.framing import HEADER, FrameReader
from bgd.wire.requests import SetProgress
from tests.support import DEADLINE

JOBS = itertools.count(1)
WHOLE = 200_000  # bytes, more than fit into a socket that nobody reads


class Ear:
    """The daemon's end of the socket: understand what a daemon would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(100)
        self._listening.settimeout(DEADLINE)
        self._connection: socket.socket | None = None

    def accept(self) -> None:
        """Accept the next connection, which begins with a hello."""
        self.hang_up()
        self._connection, _ = self._listening.accept()
        self._connection.settimeout(DEADLINE)
        hello = messages.decode_hello(self._payload())
        assert (hello.protocol, hello.program) == (messages.PROTOCOL, "bgd_job")

    def hear(self) -> SetProgress:
        request = messages.decode_request(self._payload())
        assert isinstance(request, SetProgress)
        return request

    def all_there_is(self) -> list[tuple[float | None, str | None]]:
        """Return the reports so far, without waiting."""
        assert self._connection is not None
        self._connection.setblocking(False)
        data = b""
        try:
            while piece := self._connection.recv(65_536):
                data += piece
        except BlockingIOError:
            pass
        said = [messages.decode_request(payload) for payload in FrameReader().feed(data)]
        return [(each.fraction, each.message) for each in said if isinstance(each, SetProgress)]

    def hear_end(self) -> None:
        """Wait until the job reports nothing more."""
        assert self._connection is not None
        assert self._connection.recv(1) == b""

    def say(self, data: bytes) -> None:
        assert self._connection is not None
        self._connection.sendall(data)

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def close(self) -> None:
        """Close the socket and leave its file, like a daemon that was killed."""
        self.hang_up()
        self._listening.close()

    def _payload(self) -> bytes:
        return self._bytes(int.from_bytes(self._bytes(HEADER), "big"))

    def _bytes(self, count: int) -> bytes:
        assert self._connection is not None
        data = b""
        while len(data) < count:
            piece = self._connection.recv(count - len(data))
            assert piece, "the job has hung up"
            data += piece
        return data


@pytest.fixture
def job(monkeypatch, tmp_path_factory):
    """Make this process a job, a new one for each test, without a daemon yet."""
    path = tmp_path_factory.mktemp("s") / "s"
    given = {"BGD_JOB_ID": str(next(JOBS)), "BGD_ATTEMPT": "2", "BGD_QUEUE": "mail", "BGD_SLOT": "1"}
    for name, value in (given | {"BGD_SOCKET": str(path)}).items():
        monkeypatch.setenv(name, value)
    yield path
    _reporter.end()
    monkeypatch.setattr(_reporter, "_reporter", None)


@pytest.fixture
def ear(job):
    listening = Ear(job)
    yield listening
    listening.close()


@pytest.fixture
def tireless(monkeypatch):
    """Allow any number of reports."""
    monkeypatch.setattr(_reporter, "BURST", 10**9)
    monkeypatch.setattr(_reporter, "PER_SECOND", 1e12)


def said(ear, *reports):
    for report in reports:
        bgd_job.progress(*report)
    ear.accept()
    return [(heard.fraction, heard.message) for heard in (ear.hear() for _ in reports)]


def test_a_report_is_a_request_of_the_socket(ear):
    bgd_job.progress(0.25, "größer\n")
    ear.accept()

    heard = ear.hear()

    assert (heard.job, heard.attempt) == (int(os.environ["BGD_JOB_ID"]), 2)
    assert (heard.fraction, heard.message) == (0.25, "größer\n")


def test_reports_follow_each_other(ear):
    reports = [(0.0, None), (Fraction(1, 4), "a"), (None, "b"), (1, ""), (None, None)]

    assert said(ear, *reports) == [(0.0, None), (0.25, "a"), (None, "b"), (1.0, None), (None, None)]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 40, float("nan"), float("inf")])
def test_an_invalid_fraction_is_refused_at_the_call(fraction):
    with pytest.raises(ValueError, match="is not a fraction: progress takes a number from 0 to 1"):
        bgd_job.progress(fraction)


@pytest.mark.parametrize("given", [("0.4",), ("half",), ([1],), (0.5, 7), (0.5, b"half")])
def test_a_fraction_of_another_type_or_a_message_that_is_not_text_is_refused(given):
    with pytest.raises(TypeError, match=r"progress takes a number|the message of progress must be text"):
        bgd_job.progress(*given)


def test_a_sum_that_exceeds_1_by_rounding_is_accepted(ear):
    assert said(ear, (1.0000000000000002,), (-1e-17, "x")) == [(1.0, None), (0.0, "x")]


def test_a_long_message_is_cut_to_valid_text(ear):
    reports = [(0.1, "é" * 300), (0.2, "\udcff" * 200), (0.3, "\x00\U0001f600")]

    messages_said = [message for _, message in said(ear, *reports)]

    assert messages_said == ["é" * 200, ("\\udcff" * 200)[:200], "\x00\U0001f600"]


def test_outside_of_a_job_nothing_happens(monkeypatch, ear):
    monkeypatch.delenv("BGD_JOB_ID")

    bgd_job.progress(0.5)

    monkeypatch.setenv("BGD_JOB_ID", str(next(JOBS)))
    assert said(ear, (0.75,)) == [(0.75, None)]


def test_a_repeated_report_is_sent_once(ear):
    for fraction in (0.5, 0.5, 0.5, 0.75):
        bgd_job.progress(fraction, "same")
    ear.accept()

    assert ear.all_there_is() == [(0.5, "same"), (0.75, "same")]


def test_of_a_flood_of_reports_some_and_the_last_are_sent(monkeypatch, ear):
    monkeypatch.setattr(_reporter, "PER_SECOND", 0.0)
    for number in range(1000):
        bgd_job.progress(number / 1000)
    ear.accept()
    told = ear.all_there_is()
    assert told == [(number / 1000, None) for number in range(_reporter.BURST)]

    _reporter.end()

    assert ear.all_there_is() == [(0.999, None)]


def test_the_end_waits_until_the_daemon_has_read_all_and_closes(monkeypatch, ear):
    monkeypatch.setattr(_reporter, "END_PATIENCE", DEADLINE)
    bgd_job.progress(0.5)
    ear.accept()
    ear.hear()
    ending = threading.Thread(target=_reporter.end)
    ending.start()

    ear.hear_end()

    assert ending.is_alive()
    ear.hang_up()
    ending.join(DEADLINE)
    assert not ending.is_alive()


def test_the_end_waits_only_a_moment_for_a_daemon_that_reads_nothing(ear):
    bgd_job.progress(0.5)

    _reporter.end()

    ear.accept()
    assert ear.all_there_is() == [(0.5, None)]


def test_a_report_that_was_held_back_is_sent_by_the_next_call(monkeypatch, ear):
    monkeypatch.setattr(_reporter, "PER_SECOND", 0.0)
    for number in range(_reporter.BURST + 1):
        bgd_job.progress(number / 1000)
    ear.accept()
    ear.all_there_is()
    monkeypatch.setattr(_reporter, "PER_SECOND", 1e9)

    bgd_job.progress(_reporter.BURST / 1000)

    assert ear.all_there_is() == [(_reporter.BURST / 1000, None)]


@pytest.mark.parametrize("path", ["", "/nowhere/s", "/tmp/" + "x" * 200, "nul\0"[:3], "/dev/null"])
@pytest.mark.usefixtures("job")
def test_a_missing_daemon_costs_nothing(monkeypatch, path):
    monkeypatch.setenv("BGD_SOCKET", path)

    for number in range(100):
        bgd_job.progress(number / 100)
    _reporter.end()


def test_a_daemon_that_starts_later_gets_the_report(job, monkeypatch):
    bgd_job.progress(0.25)
    ear = Ear(job)
    bgd_job.progress(0.5)
    monkeypatch.setattr(_reporter, "PAUSE", 0.0)

    bgd_job.progress(0.5)

    ear.accept()
    assert ear.hear().fraction == 0.5
    ear.close()


@pytest.mark.usefixtures("tireless")
def test_a_daemon_that_went_away_is_tried_again(job, monkeypatch):
    monkeypatch.setattr(_reporter, "PAUSE", 0.0)
    ear = Ear(job)
    assert said(ear, (0.25,)) == [(0.25, None)]
    ear.close()
    bgd_job.progress(0.5)
    job.unlink()
    ear = Ear(job)

    bgd_job.progress(0.75)

    ear.accept()
    assert ear.hear().fraction == 0.75
    ear.close()


def test_a_report_that_a_lost_daemon_may_have_missed_is_sent_again_at_the_end(job):
    ear = Ear(job)
    assert said(ear, (0.25,)) == [(0.25, None)]
    ear.close()
    job.unlink()
    ear = Ear(job)

    _reporter.end()

    ear.accept()
    assert ear.hear().fraction == 0.25
    ear.close()


@pytest.mark.usefixtures("tireless")
def test_a_daemon_that_does_not_read_delays_no_job(ear):
    bgd_job.progress(0.0)
    reporter = _reporter._reporter
    assert reporter is not None
    number = 0
    while not reporter._is_held:  # until the socket is full
        number += 1
        bgd_job.progress(None, str(number))
    for more in range(1000):
        bgd_job.progress(None, f"more {more}")
    assert len(reporter._unsent) < WHOLE // 100

    ear.accept()
    assert [message for _, message in ear.all_there_is()][1:] == [str(each) for each in range(1, number - 1)]
    bgd_job.progress(None, "at last")
    assert ear.all_there_is()[-1] == (None, "at last")


@pytest.mark.usefixtures("tireless")
def test_answers_are_read_and_do_not_fill_the_socket(ear):
    bgd_job.progress(0.0)
    ear.accept()
    for number in range(100):
        ear.say(bytes(10_000))
        bgd_job.progress(number / 100, "x")
    assert ear.all_there_is()[-1] == (0.99, "x")


def test_a_forked_child_has_its_own_connection(ear):
    bgd_job.progress(0.25)
    ear.accept()
    if (child := os.fork()) == 0:
        bgd_job.progress(0.75)
        _reporter.end()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    bgd_job.progress(0.5)

    assert ear.all_there_is() == [(0.25, None), (0.5, None)]
    ear.accept()
    assert ear.hear().fraction == 0.75


def test_a_child_forked_while_another_thread_reports_is_not_stuck(ear):
    bgd_job.progress(0.25)
    reporter = _reporter._reporter
    assert reporter is not None
    with reporter._busy:
        child = os.fork()
        if child == 0:
            bgd_job.progress(0.75)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        bgd_job.progress(0.5)  # neither is this one
    ear.accept()
    ear.accept()
    assert ear.hear().fraction == 0.75


@pytest.mark.usefixtures("tireless")
def test_reports_of_several_threads_are_not_mixed(ear):
    def tell(thread: int) -> None:
        for number in range(50):
            bgd_job.progress(number / 50, f"{thread} " * 10)

    threads = [
        threading.Thread(target=tell, args=(number,)) for number in range(4)
    ]  # no more than the socket holds
    for thread in threads:
        thread.start()
    ear.accept()
    for thread in threads:
        thread.join(DEADLINE)
    bgd_job.progress(1.0)

    assert ear.all_there_is()[-1] == (1.0, None)


def test_reports_of_another_job_in_the_same_process_name_that_job(ear, monkeypatch):
    bgd_job.progress(0.25)
    first = os.environ["BGD_JOB_ID"]
    ear.accept()
    assert ear.hear().job == int(first)
    monkeypatch.setenv("BGD_JOB_ID", second := str(next(JOBS)))

    bgd_job.progress(0.25)

    ear.accept()
    heard = ear.hear()
    assert (heard.job, heard.fraction) == (int(second), 0.25)


def test_a_file_that_took_the_connections_number_is_left_open(ear, tmp_path):
    bgd_job.progress(0.25)
    reporter = _reporter._reporter
    assert reporter is not None
    assert reporter._socket is not None
    fd = reporter._socket.fileno()
    with (tmp_path / "mine").open("w+b") as file:
        os.dup2(file.fileno(), fd)
        bgd_job.progress(0.5, "said")
        ear.accept()
        ear.accept()

        assert file.read() == b""
        assert ear.hear().message == "said"
        os.close(fd)


def run(code: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import bgd_job, os\n{code}"],
        env={**os.environ, "PYTHONPATH": str(Path(bgd_job.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        **options,
    )


def test_the_end_of_a_script_sends_its_last_report(ear):
    done = run("for number in range(1001): bgd_job.progress(number / 1000, 'x')")

    assert (done.returncode, done.stderr) == (0, "")
    ear.accept()
    assert ear.all_there_is()[-1] == (1.0, "x")


def test_a_daemon_that_goes_does_not_end_a_job_with_default_sigpipe(job):
    ear = Ear(job)
    code = "import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
    code += "bgd_job.progress(0.1); input()\n"
    code += "bgd_job._reporter.Reporter._is_lost = lambda self: False; bgd_job.progress(0.2)"
    with subprocess.Popen(
        [sys.executable, "-c", f"import bgd_job\n{code}"],
        env={**os.environ, "PYTHONPATH": str(Path(bgd_job.__file__).parents[1])},
        stdin=subprocess.PIPE,
    ) as process:
        ear.accept()
        ear.close()
        process.communicate(b"\n", timeout=DEADLINE)
    assert process.returncode != -signal.SIGPIPE
    assert process.returncode == 0


@pytest.mark.usefixtures("ear")
def test_a_job_without_standard_streams_keeps_their_numbers_free():
    code = "os.close(0); os.close(1)\nbgd_job.progress(0.5)\n"
    code += "assert os.open('/dev/null', os.O_RDONLY) == 0"

    done = run(code)

    assert done.returncode == 0, done.stderr


def test_progress_that_a_listener_gets_is_not_sent_to_a_daemon(job):
    heard: list[tuple[float | None, str | None]] = []
    token = bgd_job.listener.set(lambda *said: heard.append(said))
    bgd_job.progress(1, "x")
    bgd_job.listener.reset(token)

    assert heard == [(1.0, "x")]
    assert _reporter._reporter is None or _reporter._reporter.owner[-1] != str(job)


def test_limits_are_those_of_the_socket():
    assert bgd_job.MAX_MESSAGE == requests.MAX_PROGRESS_MESSAGE
    assert _wire._PROTOCOL == messages.PROTOCOL


def test_reporter_runs_on_python_3_9():
    ast.parse(Path(_reporter.__file__).read_text(), feature_version=(3, 9))


def test_the_reporter_is_not_imported_before_it_is_used():
    done = run(
        "import sys; assert 'socket' not in sys.modules; assert 'bgd_job._reporter' not in sys.modules"
    )

    assert done.returncode == 0, done.stderr
