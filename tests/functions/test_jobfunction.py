"""The decorator `bgd.job`: a function that can be called here or queued."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import bgd
from bgd import AsyncClient, Client, DaemonUnreachable, JobFailed, NotAllowed, Refused
from bgd.client.background import default_async_client, default_client
from tests.functions import tasks
from tests.support import DEADLINE, wait_until

pytestmark = pytest.mark.usefixtures("served")


def test_a_call_runs_here():
    assert tasks.add(1) == 3
    assert tasks.Report().text(3) == "made anew, 3 pages"
    assert tasks.Report.name("s") == "Reports"
    assert tasks.Report.size(3) == 30  # type: ignore[call-arg]  # type checkers know less about a staticmethod


def test_it_stays_the_same_function():
    def function() -> None:
        """Do nothing."""

    assert bgd.job(function) is function
    assert bgd.job(queue="mail")(function) is function
    assert pickle.loads(pickle.dumps(tasks.add)) is tasks.add


def test_a_worker_runs_it_under_its_own_name():
    job = tasks.add.submit(3, second=4)

    assert job.result(DEADLINE) == 7
    assert job.target == "tests.functions.tasks:add"


def test_methods_run_on_a_new_object_and_classmethods_and_staticmethods_without():
    jobs = [
        tasks.Report.text.submit(3),
        tasks.Report().text.submit(pages=4),
        tasks.Report.name.submit("s"),
        tasks.Report.size.submit(3),  # type: ignore[call-arg]  # as above
    ]

    assert [job.result(DEADLINE) for job in jobs] == [
        "made anew, 3 pages",
        "made anew, 4 pages",
        "Reports",
        30,
    ]


def test_coroutine_functions_are_awaited_and_other_decorators_work():
    assert tasks.length.submit("word").result(DEADLINE) == 4
    assert tasks.next_one.submit(2).result(DEADLINE) == 6


def test_a_tuple_arrives_as_a_list():
    assert tasks.echo.submit((1, ("a", None))).result(DEADLINE) == [1, ["a", None]]


def test_options_of_the_decorator_can_be_changed():
    usual = tasks.send.submit("ada", copies=2)
    other = tasks.send.options(queue="night", priority=5).options(priority=7, delay=3600).submit("ada")

    assert (usual.queue, usual.retries, usual.tags, usual.priority) == ("mail", 0, ["letter"], 0)
    assert (other.queue, other.retries, other.tags, other.priority) == ("night", 0, ["letter"], 7)
    assert other.state == "scheduled"
    assert usual.result(DEADLINE) == "2 for ada"


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("to {address}", "to ada"),
        (("{0}/{copies}", 2), "ada/1"),
        ("letters", "letters"),
        ("{{{address}}}", "{ada}"),
    ],
)
def test_a_limit_names_arguments_however_they_are_passed(template, key):
    limited = tasks.send.options(limit=template, hold=True)
    jobs = [limited.submit("ada"), limited.submit(address="ada"), limited.submit("ada", copies=1)]

    places = 1 if isinstance(template, str) else template[1]
    assert [job.limit for job in jobs] == [(key, places)] * 3
    for job in jobs:
        job.cancel()


def test_a_key_names_arguments_however_they_are_passed():
    unique = tasks.send.options(key="to {address}, {copies} {{times}}", hold=True)
    first, *others = [unique.submit("ada"), unique.submit(address="ada"), unique.submit("ada", copies=1)]
    bob = unique.submit("bob")

    assert first.key == "to ada, 1 {times}"
    assert {job.id for job in others} == {first.id}
    assert (bob.id, bob.key) == (first.id + 1, "to bob, 1 {times}")
    assert unique.spec("ada").key == first.key
    first.cancel()
    bob.cancel()


def test_a_default_is_in_a_key_as_if_it_was_passed():
    unique = tasks.copy.options(key="{whole} {mode}")

    assert unique.spec("a").key == unique.spec("a", True, mode="{0}").key == "true {0}"
    assert unique.spec("a", None).key == "null {0}"


@pytest.mark.parametrize("option", ["key", "limit"])
@pytest.mark.parametrize("template", ["u:{", "u:{0.id}", "u:{}", "u:}"])
def test_braces_that_stand_for_no_argument_are_refused_where_they_are_written(option, template):
    problem = f"{option} {template!r}: write {{0}} or {{name}} for an argument, and {{{{ or }}}} for a brace"
    with pytest.raises(Refused) as refused:
        bgd.job(**{option: template})
    assert str(refused.value) == problem
    with pytest.raises(Refused, match=option):
        tasks.add.options(**{option: template})


def test_calls_by_the_name_of_a_target_have_arguments_in_their_key():
    target, key = "tests.functions.tasks:add", "n:{0}"
    items = [{"target": target, "args": [number], "key": key, "hold": True} for number in (1, 2)]
    with Client() as client:
        first, second = client.submit_many(items)
        again = client.call(target, [1], key=key)
        with pytest.raises(Refused, match=r"key 'n:\{7\}': the job has no argument 7 by position"):
            client.call(target, [1], key="n:{7}")

        assert (first.key, second.key, again.id) == ("n:1", "n:2", first.id)
        client.cancel([first, second])


def test_braces_in_the_key_of_a_command_mean_nothing(served):
    job = served.submit("--key", "{0} {", "--hold", "true")

    assert served.shown(job)["key"] == "{0} {"
    served.bgctl("cancel", job)


def test_a_limit_with_an_argument_that_a_function_does_not_have_is_refused():
    with pytest.raises(Refused, match=r"limit '\{9\}\{order\}': the job has no argument 9 by position"):
        tasks.add.options(limit="{9}{order}").submit(1)


def test_a_job_that_is_cancelled_before_it_runs_has_that_outcome():
    job = tasks.add.options(hold=True).submit(1)
    job.cancel()

    with pytest.raises(JobFailed, match="was cancelled") as failed:
        job.result(DEADLINE)
    assert failed.value.outcome == "cancelled"


def test_a_job_that_is_cancelled_between_two_attempts_has_that_outcome():
    job = tasks.fail.options(retries=1, retry_delay="1h").submit("no")
    wait_until(lambda: job.refresh().attempts() and job.state == "scheduled")
    job.cancel()

    with pytest.raises(JobFailed, match="was cancelled") as failed:
        job.result(DEADLINE)
    assert (failed.value.outcome, failed.value.error_type) == ("cancelled", "LookupError")


def test_many_calls_are_queued_in_order():
    jobs = tasks.send.submit_many([("ada",), {"address": "bob", "copies": 3}, ["eve"]])

    assert [job.result(DEADLINE) for job in jobs] == ["1 for ada", "3 for bob", "1 for eve"]


def test_no_call_is_queued_if_one_does_not_fit():
    before = tasks.add.submit(1).id
    with pytest.raises(TypeError, match="missing a required argument: 'first'"):
        tasks.add.submit_many([(1,), ()])
    with pytest.raises(TypeError, match="are a tuple or a mapping, not 'ada'"):
        tasks.send.submit_many(["ada"])

    assert tasks.add.submit(1).id == before + 1


def test_specs_of_several_functions_go_into_one_transaction():
    with Client() as client:
        jobs = client.submit_many([tasks.add.spec(1), tasks.send.spec("ada"), ["true"]])

        assert [job.result(DEADLINE) for job in jobs] == [3, "1 for ada", 0]


def test_the_calls_of_a_chain_run_one_after_another():
    with Client() as client:
        jobs = client.chain(tasks.add.s(1), tasks.send.options(delay=0.01).s("ada"), ["true"])

        assert [job.after for job in jobs] == [[], [jobs[0].id], [jobs[1].id]]
        assert [job.result(DEADLINE) for job in jobs] == [3, "1 for ada", 0]
        assert client.chain() == []


def test_a_job_adds_others_to_its_batch_which_ends_after_them():
    with Client() as client:
        batch = client.batch(
            [{"target": "tests.functions.tasks:add_to_batch", "args": [3]}],
            then=tasks.send.s("ada"),
            finally_=tasks.loaded,
        )

        assert batch.wait(DEADLINE).counts["succeeded"] == 4
        first, *added = batch.jobs()
        assert (first.result(), [job.result() for job in added]) == (4, [2, 3, 4])
        view: Any = batch.view
        assert client.result(view.then.job, timeout=DEADLINE) == "1 for ada"
        assert client.job(view.finally_.job).target == "tests.functions.tasks:loaded"


@pytest.mark.parametrize(("how", "added"), [("plainly", 3), ("key", 1), ("step", 1)])
def test_a_job_that_is_retried_adds_others_again_unless_they_have_a_key_or_a_step(how, added):
    parent = {"target": "tests.functions.tasks:add_to_batch_and_fail", "args": [how]}
    with Client() as client:
        batch = client.batch([parent | {"retries": 2, "retry_delay": 0}])

        assert batch.wait(DEADLINE).counts["succeeded"] == 1 + added


@pytest.mark.parametrize("arguments", [(), (1, 2, 3), ({1, 2},), ({1: "one"},), (float("nan"),)])
def test_wrong_arguments_fail_where_they_are_submitted(monkeypatch, arguments):
    monkeypatch.setenv("BGD_SOCKET", "/nonexistent")  # no daemon is asked

    with pytest.raises(TypeError):
        tasks.add.submit(*arguments)


def test_an_unknown_option_is_named_where_it_is_written():
    with pytest.raises(TypeError, match=r"no option 'priorty': did you mean priority\?"):
        tasks.add.options(priorty=5)  # type: ignore[call-arg]  # the point
    with pytest.raises(TypeError, match=r"no option 'retires': did you mean retries\?"):
        bgd.job(retires=3)  # type: ignore[call-overload]  # the point


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retries": -1}, "retries: -1 must be a whole number from 0 to 1000"),
        ({"timeout": "x"}, "timeout: 'x' is not a duration: write 500ms"),
        ({"name": "two\nlines"}, "must be printable text on one line"),
        ({"pty": True}, "stdin, input and pty belong to a command"),
        ({"delay": 5, "at": 1.0}, "delay and at cannot be combined"),
    ],
)
def test_a_wrong_value_is_named_where_it_is_written(options, words):
    with pytest.raises(Refused, match=words):
        bgd.job(**options)
    with pytest.raises(Refused, match=words):
        tasks.add.options(**options)


def test_the_result_raises_the_error_of_the_job():
    with pytest.raises(JobFailed, match="LookupError: no such letter"):
        tasks.fail.submit("no such letter").result(DEADLINE)


def test_a_function_that_is_not_allowed_is_refused():
    with pytest.raises(NotAllowed, match="allowed_classes"):
        not_listed.submit()
    with pytest.raises(TypeError, match="tasks:_private is private, and no worker calls it"):
        tasks._private.submit()


def test_a_forged_name_is_refused():
    def forged(command: str) -> None:
        os.system(command)

    forged.__module__, forged.__qualname__ = "tests.functions.tasks", "os.system"
    job = bgd.job(retries=0)(forged).submit("true")

    with pytest.raises(JobFailed, match=r"'os'|refused"):
        job.result(DEADLINE)


@bgd.job
def not_listed() -> None: ...


@pytest.mark.parametrize("thing", [tasks.Report, 3, len])
def test_anything_but_a_function_is_refused_at_once(thing):
    with pytest.raises(TypeError, match=r"@bgd\.job"):
        bgd.job(thing)


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_the_wrong_order_of_decorators_is_an_error_with_a_remedy(kind):
    with pytest.raises(TypeError, match=rf"put @bgd\.job below @{kind.__name__}"):
        bgd.job(kind(not_listed))


# --- clients ------------------------------------------------------------------------------------------------


async def test_it_is_submitted_from_an_event_loop():
    job = await tasks.add.submit_async(1)
    again = await tasks.length.options(priority=3).submit_async("word")

    assert await job.result(DEADLINE) == 3
    assert await again.result(DEADLINE) == 4


def test_each_event_loop_keeps_its_own_client():
    async def clients() -> list[AsyncClient]:
        await tasks.add.submit_async(1)
        return [default_async_client(), default_async_client()]

    first, second = asyncio.run(clients()), asyncio.run(clients())

    assert first[0] is first[1]
    assert second[0] is second[1] is not first[0]


def test_using_sets_the_client_for_a_block(served, monkeypatch):
    monkeypatch.setenv("BGD_SOCKET", "/nonexistent/bgd.sock")
    with served.client() as client:
        with bgd.using(client):
            assert default_client() is client
            assert tasks.add.submit(1).result(DEADLINE) == 3
        assert default_client() is not client
        with pytest.raises(DaemonUnreachable):
            tasks.add.submit(1)


async def test_using_sets_an_async_client_too(served):
    async with AsyncClient(str(served.socket)) as client:
        with bgd.using(client):
            assert default_async_client() is client
        assert default_async_client() is not client


def test_threads_share_the_default_client():
    with ThreadPoolExecutor(8) as threads:
        jobs = list(threads.map(tasks.add.submit, range(40)))

    assert [job.result(DEADLINE) for job in jobs] == list(range(2, 42))
    assert len({job.id for job in jobs}) == 40


def test_a_thread_does_not_see_the_client_of_another_thread(served):
    seen = []
    with served.client() as client, bgd.using(client):
        thread = threading.Thread(target=lambda: seen.append(default_client()))
        thread.start()
        thread.join()

    assert seen[0] is not client


def test_another_socket_in_the_environment_is_another_client(served, monkeypatch):
    first = default_client()
    monkeypatch.setenv("BGD_SOCKET", "/nonexistent/bgd.sock")
    other = default_client()
    monkeypatch.setenv("BGD_SOCKET", str(served.socket))

    assert default_client() is first is not other


def test_a_worker_imports_nothing_of_the_client_except_the_names_of_options():
    program = (
        "import sys, bgd; bgd.job(lambda: None); print([name for name in sys.modules "
        "if name.startswith('bgd.') or name in {'msgspec', 'asyncio', 'inspect'}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "['bgd.client', 'bgd.client.options', 'bgd.jobfunction']\n"


def test_a_worker_does_not_import_the_client_for_the_options_of_its_job():
    job = tasks.loaded.submit()

    assert "bgd.client.specs" not in job.result(DEADLINE)


# --- habits of Celery, RQ and Huey ------------------------------------------------------------------------


def suggestion(call, *args, **kwargs):
    """Return what the error of a call says to write."""
    with pytest.raises(TypeError if call.__name__ == "submit" else AttributeError) as raised:
        call(*args, **kwargs)
    said = str(raised.value)
    assert "\n" not in said
    return said.partition(": write ")[2]


@pytest.mark.parametrize(
    "name", ["delay", "enqueue", "perform_async", "perform_later", "dispatch", "send", "apply_async"]
)
def test_a_call_of_a_function_as_in_celery_says_what_to_write(name):
    if name == "apply_async":
        written = suggestion(tasks.send.apply_async, ("ada",), {"copies": 2}, countdown=10)  # type: ignore[attr-defined]  # on purpose
        of_method = suggestion(tasks.Report.text.apply_async, [3])  # type: ignore[attr-defined]  # on purpose
    else:
        written = suggestion(getattr(tasks.send, name), "ada", copies=2)
        of_method = suggestion(getattr(tasks.Report.text, name), 3)

    assert written == "send.submit('ada', copies=2)"
    assert eval(written, vars(tasks)).result(DEADLINE) == "2 for ada"
    assert eval(of_method, vars(tasks)).result(DEADLINE) == "made anew, 3 pages"


def test_what_to_write_keeps_the_options_that_were_changed():
    changed = tasks.send.options(queue="letters", retries=0)
    written = suggestion(changed.delay, "ada")  # type: ignore[attr-defined]  # on purpose

    assert written == "send.options(queue='letters').submit('ada')"
    assert eval(written, vars(tasks)).queue == "letters"


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "written"),
    [
        ("enqueue", (tasks.send, "ada"), {}, "client.call('tests.functions.tasks:send', ['ada'])"),
        (
            "delay",
            ("tests.functions.tasks:send", "ada"),
            {"copies": 2},
            "client.call('tests.functions.tasks:send', ['ada'], {'copies': 2})",
        ),
        (
            "submit",
            (tasks.send, "ada"),
            {"copies": 2, "queue": "letters"},
            "client.call('tests.functions.tasks:send', ['ada'], {'copies': 2}, queue='letters')",
        ),
        ("submit", (tasks.loaded,), {}, "client.call('tests.functions.tasks:loaded', [])"),
        ("submit", ("echo", "hi"), {"queue": "letters"}, "client.submit(['echo', 'hi'], queue='letters')"),
        ("enqueue", (["echo", "hi"],), {}, "client.submit(['echo', 'hi'])"),
    ],
)
def test_a_call_of_a_client_as_in_rq_says_what_to_write(name, args, kwargs, written):
    with Client() as client:
        assert suggestion(getattr(client, name), *args, **kwargs) == written
        job = eval(written, {"client": client})
        assert job.wait(DEADLINE).state == "succeeded"
        assert job.queue == kwargs.get("queue", "default")

    async def ask() -> str:
        async with AsyncClient() as client:
            try:
                await getattr(client, name)(*args, **kwargs)
            except (TypeError, AttributeError) as error:
                return str(error)
        return ""

    assert asyncio.run(ask()).endswith(f": write await {written}")


def test_a_group_as_in_celery_says_what_to_write():
    with Client() as client, pytest.raises(AttributeError, match=r"write client\.batch\(calls, then="):
        client.chord([tasks.send.s("ada")])  # type: ignore[attr-defined]  # on purpose


@pytest.mark.parametrize(
    ("name", "ours"), [("countdown", "delay"), ("eta", "at"), ("link", "on_success"), ("unique", "key")]
)
def test_an_option_as_in_other_libraries_says_what_to_write(name, ours):
    given: Any = {name: 3}
    with pytest.raises(TypeError, match=f"no option '{name}': write {ours}$"):
        tasks.send.options(**given)
    with pytest.raises(TypeError, match=f"no option '{name}': write {ours}$"):
        bgd.job(**given)


def test_a_wrong_item_of_a_chain_or_a_wrong_follow_up_says_what_to_write():
    call = tasks.send.s("ada")
    with Client() as client:
        with pytest.raises(TypeError, match=r"pass each call by itself, as in chain\(\*calls\)$"):
            client.chain([call])  # type: ignore[list-item]  # on purpose
        with pytest.raises(TypeError, match=r"a function is not a call: write send\.s\(\.\.\.\)$"):
            client.chain(tasks.send)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(
        TypeError, match=r"on_failure takes no call: name its target, 'tests.functions.tasks:send'"
    ):
        tasks.send.options(on_failure=call)  # type: ignore[arg-type]  # on purpose


def test_what_to_write_is_short_and_names_a_function_that_no_worker_finds():
    with Client() as client:
        assert len(suggestion(client.enqueue, tasks.send, "x" * 100_000)) < 300  # type: ignore[attr-defined]  # on purpose
        with pytest.raises(TypeError, match="a lambda of tests"):
            client.enqueue(lambda: 1)  # type: ignore[attr-defined]  # on purpose
        with pytest.raises(AttributeError, match="a client has no attribute 'jbos'"):
            client.jbos  # type: ignore[attr-defined]  # noqa: B018  # on purpose
