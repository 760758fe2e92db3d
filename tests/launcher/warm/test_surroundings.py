"""What a class job finds around it is the same in every isolation."""

from __future__ import annotations

import pytest

from bgd.core.job import Outcome
from tests.launcher.host import written
from tests.launcher.warm.calls import FORK, INTERPRETERS, REUSE, SPAWN, Calls, value_of

SURROUNDINGS = """
import gc, os, signal, sys, random, time

def look():
    signals = [line for line in open("/proc/self/status") if line.startswith(("SigB", "SigI", "SigC"))]
    descriptors = {fd: kind_of(fd) for fd in os.listdir("/proc/self/fd")}
    return {
        "environment": {name: value for name, value in os.environ.items() if name != "BGD_RUN"},
        "folder": os.getcwd(),
        "umask": os.umask(0),
        "session": os.getsid(0) == os.getpid() == os.getpgid(0),
        "signals": signals,
        "descriptors": sorted(kind for kind in descriptors.values() if kind),
        "reads": sys.stdin.read(),
        "arguments": sys.argv[1:],
        "path": sys.path[0],
        "collects": gc.isenabled(),
        "main": sys.modules["__main__"].__file__,
    }

def kind_of(fd):
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return None
    return f"{fd} pipe" if target.startswith("pipe") else f"{fd} {target}" if int(fd) < 3 else None

def beyond_the_standard():
    open_ones = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            open_ones[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass
    return sorted(target.split(":")[0] for fd, target in open_ones.items() if fd > 2)

def marks():
    entries = open("/proc/self/environ", "rb").read().split(b"\\0")
    own = dict(entry.split(b"=", 1) for entry in entries if entry)
    return [own[b"BGD_RUN"].decode(), os.environ["BGD_RUN"]]

def inherited():
    import subprocess
    listed = subprocess.run(["ls", "/proc/self/fd"], stdout=subprocess.PIPE, close_fds=False).stdout
    return listed.decode().split()

def roll():
    return random.random()

def parent():
    return os.getppid()

def rest(seconds):
    time.sleep(seconds)

def process():
    return os.getpid()
"""


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("isolation", [FORK, REUSE])
def test_a_job_finds_what_it_would_find_in_a_fresh_interpreter(host, supervisor, isolation, interpreter):
    calls = Calls(host, supervisor, SPAWN)
    calls.interpreter = interpreter
    calls.write("surroundings", SURROUNDINGS)
    options = {"env": {"LANG": "C.UTF-8", "X": "é", "BGD_QUEUE": "wide"}, "cwd": "/usr", "umask": 0o027}
    fresh = calls.value("surroundings:look", **options)

    calls.isolation = isolation
    found = [calls.value("surroundings:look", **options) for _ in range(2)]

    for each in found:
        assert {name: value for name, value in each.items() if fresh[name] != value} == {}, fresh
    assert fresh["folder"] == "/usr"
    assert fresh["environment"]["X"] == "é"
    assert fresh["descriptors"] == ["0 /dev/null", "1 pipe", "2 pipe"]


def test_a_forked_job_has_no_descriptor_of_its_worker(forked):
    forked.write("surroundings", SURROUNDINGS)
    running = forked.launch("surroundings:rest", 1000)  # for which the worker has more descriptors open
    forked.supervisor.started(running)

    own = forked.value("surroundings:beyond_the_standard")

    assert len(own) == 1, own
    assert own[0] == "/memfd", "its result file is all"


def test_no_program_of_a_job_inherits_more_than_its_standard_streams(every):
    every.write("surroundings", SURROUNDINGS)

    assert every.value("surroundings:inherited") == ["0", "1", "2", "3"]  # 3 is ls reading the folder


def test_a_job_has_its_own_mark_where_a_sweep_searches_for_it(every):
    every.write("surroundings", SURROUNDINGS)
    for _ in range(2):
        ended = every.run("surroundings:marks")

        assert value_of(ended) == [f"{ended.key.store}.{ended.key.job}.1"] * 2


def test_forked_jobs_draw_random_numbers_of_their_own(forked):
    forked.write("surroundings", SURROUNDINGS)
    forked.preload = ["random", "surroundings"]

    assert len({forked.value("surroundings:roll") for _ in range(3)}) == 3


def test_jobs_are_forked_from_one_worker(forked):
    forked.write("surroundings", SURROUNDINGS)

    parents = {forked.value("surroundings:parent") for _ in range(3)}
    pids = {forked.value("surroundings:process") for _ in range(3)}

    assert parents == set(forked.workers())
    assert len(parents) == 1
    assert len(pids) == 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"cwd": "/nowhere"}, "no such directory: /nowhere"),
        ({"cwd": "/etc/passwd"}, "not a directory: /etc/passwd"),
    ],
)
def test_a_folder_that_is_not_there_is_named(every, options, problem):
    every.write("surroundings", SURROUNDINGS)

    ended = every.run("surroundings:roll", **options)

    assert (ended.outcome, ended.problem) == (Outcome.NOT_STARTED, problem)
    assert every.run("surroundings:roll").outcome is Outcome.SUCCEEDED


def test_an_interpreter_that_is_not_there_is_named(every):
    every.interpreter = "/nowhere/python"

    ended = every.run("job:function")

    assert (ended.outcome, ended.problem) == (Outcome.NOT_STARTED, "program not found: /nowhere/python")


def test_long_arguments_and_environments_arrive(every):
    every.write("job", "import os\ndef measure(text): return [len(text), len(os.environ['LONG'])]")

    assert every.value("job:measure", "é" * 400_000, env={"LONG": "x" * 100_000}) == [400_000, 100_000]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("sys.exit(3)", 3),
        ("sys.exit()", 0),
        ("sys.exit('words')", 1),
        ("os._exit(4)", 4),
        ("sys.exit(-1)", 255),
    ],
)
def test_an_exit_code_that_the_job_chose_is_kept(every, call, code):
    every.write("job", f"import os, sys\ndef leave(): {call}\ndef stay(): return 1")

    ended = every.run("job:leave")

    assert (ended.exit_code, ended.result) == (code, b"")
    assert ("words\n" if "words" in call else "") == every.output(ended)
    assert every.value("job:stay") == 1


def test_what_a_job_does_at_its_exit_is_done(every):
    every.write(
        "job",
        "import atexit, threading\n"
        "def work(file):\n"
        " atexit.register(lambda: open(file, 'a').write('exit\\n'))\n"
        " def outlive():\n"  # a thread that ends before the job leaves a reused worker as it was
        "  threading.main_thread().join()\n"
        "  open(file, 'a').write('thread\\n')\n"
        " threading.Thread(target=outlive).start()\n",
    )
    file = every.folder / "done"

    every.run("job:work", str(file))

    assert written(file, 2).splitlines() == ["thread", "exit"]


def test_what_a_job_used_of_the_machine_is_reported(every):
    every.write("job", "def work():\n x = 0\n for i in range(3_000_000): x += i\n")

    ended = every.run("job:work")

    assert ended.user_seconds is not None
    assert 0.02 < ended.user_seconds < 10
    assert ended.max_rss_bytes is None or ended.max_rss_bytes > 1_000_000


def test_what_a_job_prints_is_its_log(every):
    every.write("job", "import sys\ndef talk(word): print(word); print('err', file=sys.stderr)\n")
    keys = [every.launch("job:talk", f"word {number}") for number in range(20)]
    every.supervisor.all_ended(keys)

    for number, key in enumerate(keys):
        assert every.host.output(key).decode() == f"word {number}\nerr\n"


AROUND = """
import asyncio, contextlib

inside = []

@contextlib.contextmanager
def around(job, target):
    inside.append([job.id, job.attempt, target])
    try:
        yield
    except ValueError as error:
        raise RuntimeError(f"around saw {error}")
    finally:
        inside.clear()

def look():
    return list(inside)

async def look_later():
    await asyncio.sleep(0)
    return list(inside)

def fail():
    raise ValueError("what the job says")
"""
IN_A_JOB = {"BGD_JOB_ID": "7", "BGD_ATTEMPT": "2", "BGD_QUEUE": "mail", "BGD_SLOT": "1"}


def test_a_context_manager_surrounds_each_job_and_its_error_is_that_of_the_job(every):
    every.write("app_jobs", AROUND)
    every.around, every.preload = "app_jobs:around", ["app_jobs"]

    found = [every.value(f"app_jobs:{name}", env=IN_A_JOB) for name in ("look", "look_later", "look")]
    failed = every.run("app_jobs:fail", env=IN_A_JOB)

    assert found == [[[7, 2, f"app_jobs:{name}"]] for name in ("look", "look_later", "look")]
    assert b"RuntimeError" in failed.result
    assert b"around saw what the job says" in failed.result


def test_a_context_manager_that_does_not_exist_or_fit_fails_the_job_for_good(every):
    every.write("app_jobs", AROUND)
    for name, problem in (
        ("app_jobs:missing", b"module 'app_jobs' has no 'missing'"),
        ("nowhere:around", b"No module named 'nowhere'"),
        ("app_jobs:look", b"takes 0 positional arguments but 2 were given"),
    ):
        every.around = name
        result = every.run("app_jobs:look", env=IN_A_JOB).result

        assert problem in result
        assert b'"aim": "fail"' in result  # another attempt would not help
