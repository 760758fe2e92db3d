"""One class job in a process of its own: its result, its errors, its log, and what it cannot break."""

from __future__ import annotations

import ast
import os
import shutil

import pytest

from bgd.core.spec import MAX_RESULT
from bgd.worker import WORKER, job

# --- results --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "é 漢 \U0001f600 \x00 \n",
        2**200,
        -0.1,
        [],
        {"": [{"a": [1, [2]]}]},
        12345678901234567890123456789,
    ],
)
def test_arguments_and_results_pass_unchanged(call, module, value):
    module("job", "def echo(x): return x")

    assert call("job:echo", value).told == {"ok": value}


def test_tuple_is_returned_as_a_list(call, module):
    module("job", "def pair(): return 1, (2, 3)")

    assert call("job:pair").told == {"ok": [1, [2, 3]]}


@pytest.mark.parametrize(
    ("expression", "kind", "words"),
    [
        ("float('nan')", "ValueError", "the result is not JSON"),
        ("[float('inf')]", "ValueError", "the result is not JSON"),
        ("{1, 2}", "TypeError", "the result is not JSON: Object of type set"),
        ("object()", "TypeError", "the result is not JSON: Object of type object"),
        ("{1: 2}", "TypeError", "the result has the key 1: JSON allows only text as a key"),
        ("[{None: 2}]", "TypeError", "the result has the key None"),
        ("'\\ud800'", "ValueError", "the result is not JSON"),
        ("'x' * 1_000_000", "ValueError", "the limit is 1000000: write it to a file, and return the path"),
        ("[0] * 2_000_000", "ValueError", "1000000 bytes of JSON: write it to a file, and return the path"),
        ("[[0] * 1000] * 2000", "ValueError", "the limit of 1000000 bytes"),
        ("nested(201)", "ValueError", "nested deeper than the limit of 200"),
        ("cycle()", "ValueError", "nested deeper than the limit of 200"),
        ("doubled(100)", "ValueError", "the limit of 1000000 bytes"),
    ],
)
def test_result_that_is_not_json_or_too_large_is_an_error(call, module, expression, kind, words):
    module(
        "job",
        f"""
def nested(depth):
    return [nested(depth - 1)] if depth > 1 else []

def cycle():
    a = []
    a.append(a)
    return a

def doubled(times):
    a = []
    for _ in range(times):
        a = [a, a]
    return a

def result():
    return {expression}
""",
    )

    ended = call("job:result")

    assert ended.final_error["type"] == kind  # a retry would do the same work again
    assert words in ended.final_error["message"]
    assert ended.code == 1


def test_result_at_the_limits_is_accepted(call, module):
    module("job", "def big(n): return 'x' * n\ndef deep(n): return [deep(n - 1)] if n > 1 else []")

    assert len(call("job:big", MAX_RESULT - 2).told["ok"]) == MAX_RESULT - 2
    assert call("job:deep", job.MAX_DEPTH).code == 0


def test_worker_and_daemon_agree_on_the_limit_of_results():
    assert job.MAX_RESULT == MAX_RESULT


@pytest.mark.parametrize("stdin", [b"", b"{", b"[" * 100_000, b'{"x": ' + b"9" * 5000 + b"}"])
def test_job_that_cannot_be_read_is_refused(worker, stdin):
    ended = worker("job:function", stdin=stdin)

    assert ended.told["refused"].startswith("the job cannot be read: ")
    assert ended.code == 1


# --- errors ---------------------------------------------------------------------------------------------


def test_exception_is_reported_with_type_message_and_the_jobs_own_frames(call, module):
    module("job", "def fail():\n    return inner()\n\ndef inner():\n    raise ValueError('no such thing')")

    ended = call("job:fail")

    assert ended.error["type"] == "ValueError"
    assert ended.error["message"] == "no such thing"
    lines = ended.error["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert 'job.py", line 2, in fail' in lines[1]
    assert lines[-1] == "ValueError: no such thing"
    assert str(WORKER.parent) not in ended.error["traceback"]
    assert ended.log == ended.error["traceback"]
    assert ended.code == 1


def test_exception_of_a_coroutine_has_only_the_jobs_frames(call, module):
    module("job", "async def fail():\n    raise LookupError('no')")

    ended = call("job:fail")

    assert ended.error["traceback"].count("File") == 1
    assert 'job.py", line 2, in fail' in ended.error["traceback"]


def test_type_of_an_exception_is_qualified_by_its_module(call, module):
    module("app.errors", "class Broken(Exception): pass\ndef fail(): raise Broken('x')")

    assert call("app.errors:fail").error["type"] == "app.errors.Broken"


def test_chained_exceptions_are_reported_together(call, module):
    module(
        "job",
        "def fail():\n try: 1 / 0\n except ZeroDivisionError as error: raise ValueError('é') from error",
    )

    error = call("job:fail").error

    assert (error["type"], error["message"]) == ("ValueError", "é")
    assert "ZeroDivisionError: division by zero" in error["traceback"]
    assert "The above exception was the direct cause" in error["traceback"]


def test_endless_recursion_is_an_error(call, module):
    module("job", "def fail(): return fail()")

    error = call("job:fail").error

    assert error["type"] == "RecursionError"
    assert len(error["traceback"]) < job.MAX_TEXT


def test_huge_message_loses_its_middle(call, module):
    module("job", "def fail(): raise ValueError('begin' + 'é' * 1_000_000 + 'end')")

    error = call("job:fail").error

    for text in (error["message"], error["traceback"]):
        assert len(text.encode()) < job.MAX_TEXT + 100
        assert "bytes left out" in text
        assert text.rstrip().endswith("end")
    assert error["message"].startswith("begin")


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        ("OSError(2, 'no', '\\udcff')", "FileNotFoundError", "[Errno 2] no: '\\udcff'"),
        ("ValueError('\\udcff')", "ValueError", "\\udcff"),
        ("Mute()", "job.Mute", "(its text could not be made: RuntimeError)"),
        ("KeyboardInterrupt()", "KeyboardInterrupt", ""),
        ("asyncio.CancelledError()", "asyncio.exceptions.CancelledError", ""),
    ],
)
def test_odd_exceptions_are_errors_too(call, module, raised, kind, message):
    module(
        "job",
        f"import asyncio\nclass Mute(Exception):\n def __str__(self): raise RuntimeError\n"
        f"def fail(): raise {raised}",
    )

    ended = call("job:fail")

    assert (ended.error["type"], ended.error["message"]) == (kind, message)
    assert ended.code == 1


@pytest.mark.parametrize("exit_call", ["sys.exit({})", "os._exit({})"])
@pytest.mark.parametrize("code", [0, 7])
def test_exit_code_that_the_job_chose_is_kept_and_there_is_no_result(call, module, exit_call, code):
    module("job", f"import os, sys\ndef leave(): {exit_call.format(code)}")

    ended = call("job:leave")

    assert (ended.code, ended.raw) == (code, b"")


def test_module_that_exits_at_import_leaves_no_result(call, module):
    module("job", "import sys\nsys.exit(3)")

    ended = call("job:anything")

    assert (ended.code, ended.raw) == (3, b"")


def test_module_that_fails_at_import_is_an_error(call, module):
    module("job", "def function(): pass\nraise OSError('no network')")

    ended = call("job:function")

    assert (ended.error["type"], ended.error["message"]) == ("OSError", "no network")
    assert 'job.py", line 2' in ended.error["traceback"]


# --- the process ------------------------------------------------------------------------------------------


def test_output_is_in_the_log_in_order(call, module):
    module(
        "job",
        "import sys\nprint('imported')\n"
        "def fail():\n print('out é')\n print('err', file=sys.stderr)\n print('last')\n"
        " raise ValueError('no')",
    )

    ended = call("job:fail")

    lines = ended.log.splitlines()
    assert {"imported", "out é", "err", "last"} <= set(lines)
    assert lines.index("last") < lines.index("ValueError: no")


def test_job_sees_neither_its_result_file_nor_its_own_description(call, module):
    module(
        "job",
        "import os, subprocess, sys\n"
        "def look():\n"
        " listed = subprocess.run(['ls', '/proc/self/fd'], stdout=subprocess.PIPE, close_fds=False).stdout\n"
        " return [sys.stdin.read(), os.environ.get('BGD_RESULT_FD'), os.readlink('/proc/self/fd/0'), "
        "listed.decode().split()]",
    )

    stdin, variable, zero, inherited = call("job:look").told["ok"]

    assert (stdin, variable, zero) == ("", None, "/dev/null")
    assert inherited == ["0", "1", "2", "3"]  # 3 is the folder that ls reads


def test_path_comes_first_and_the_workers_folder_is_not_on_it(call, module, tmp_path):
    module("job", "import sys\ndef path(): return sys.path")

    path = call("job:path").told["ok"]

    assert path[0] == str(tmp_path)
    assert str(WORKER.parent) not in path


@pytest.mark.parametrize("name", ["run", "job", "json", "traceback", "calls"])
def test_jobs_module_with_the_name_of_a_worker_module_is_the_one_that_runs(worker, module, tmp_path, name):
    program = tmp_path / "worker" / "run.py"
    shutil.copytree(WORKER.parent, program.parent)
    (tmp_path / "worker" / "calls.py").write_text("raise SystemExit('beside the worker')")
    module("asking", f"import {name}\ndef where(): return {name}.__file__")
    if name not in {"json", "traceback"}:  # from the standard library, and already imported
        module(name, "")

    ended = worker("asking:where", program=program)

    assert not ended.told["ok"].startswith(str(program.parent))


def test_module_that_forks_at_import_runs_the_job_once(call, module, tmp_path):
    module(
        "job",
        "import os\nchild = os.fork()\n"
        "def once(file):\n"
        " with open(file, 'a') as out: out.write('x')\n"
        " return os.waitpid(child, 0)[1]",
    )

    ended = call("job:once", str(tmp_path / "runs"))

    assert ended.told == {"ok": 0}
    assert (tmp_path / "runs").read_text() == "x"


@pytest.mark.parametrize("childs_end", ["return 'child'", "raise ValueError('child')"])
def test_forked_child_that_returns_writes_no_result(call, module, childs_end):
    module(
        "job",
        f"import os\ndef fork():\n child = os.fork()\n if not child: {childs_end}\n"
        " os.waitpid(child, 0)\n return 'parent'",
    )

    assert call("job:fork").told == {"ok": "parent"}


def test_closed_reader_of_the_output_does_not_lose_the_result(worker, module):
    module("job", "def talk():\n for _ in range(100): print('x' * 1000)\n return 'done'")
    module("quiet", "def talk(): print('in the buffer'); return 'done'")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        loud, quiet = worker("job:talk", stdout=writer), worker("quiet:talk", stdout=writer)
    finally:
        os.close(writer)

    assert loud.error["type"] == "BrokenPipeError"  # raised in the job, by its own print
    assert quiet.told == {"ok": "done"}
    assert quiet.code == 0


@pytest.mark.parametrize(
    "spoil",
    [
        "sys.stdout.close()",
        "sys.stdout = sys.stderr = None",
        "os.close(1); os.close(2)",
        "sys.stderr = object()",
    ],
)
def test_broken_standard_streams_do_not_lose_the_result(call, module, spoil):
    module(
        "job", f"import os, sys\ndef fine(): {spoil}; return 1\ndef fail(): {spoil}; raise ValueError('x')"
    )

    fine, failed = call("job:fine"), call("job:fail")

    assert (fine.told, fine.code) == ({"ok": 1}, 0)
    assert (failed.error["message"], failed.code) == ("x", 1)


def test_result_is_never_written_into_another_file_of_the_same_number(call, module, tmp_path):
    module(
        "job",
        "import os\ndef steal(file):\n os.closerange(3, 256)\n"
        " while os.open(file, os.O_RDWR | os.O_CREAT) < 100: pass",
    )

    ended = call("job:steal", str(tmp_path / "precious"))

    assert (ended.code, ended.raw) == (1, b"")
    assert "closed the file for its result" in ended.log
    assert (tmp_path / "precious").read_bytes() == b""


def test_signal_that_ends_the_job_leaves_no_result(call, module):
    module("job", "import os, signal\ndef die(): os.kill(os.getpid(), signal.SIGKILL)")

    ended = call("job:die")

    assert (ended.code, ended.raw) == (-9, b"")


@pytest.mark.parametrize("path", sorted(WORKER.parent.glob("*.py")), ids=lambda path: path.name)
def test_program_runs_on_python_3_9(path):
    ast.parse(path.read_text(), feature_version=(3, 9))


def test_job_may_start_other_processes_by_spawn(call, module):
    # multiprocessing's spawn method imports the main program, which is the worker, in every child
    module(
        "job",
        "import multiprocessing\ndef double(x): return 2 * x\n"
        "def spread():\n"
        " with multiprocessing.get_context('spawn').Pool(1) as pool: return pool.map(double, [1, 2])",
    )

    assert call("job:spread").told == {"ok": [2, 4]}
