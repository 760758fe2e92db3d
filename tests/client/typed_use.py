"""A program that uses every method of both clients, with the types they return. It is never run."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

import bgd
from bgd import (
    AsyncClient,
    AsyncJob,
    Client,
    Job,
    JobFailed,
    JobFunction,
    JobSpec,
    Outcome,
    State,
    run_background_job,
)
from bgd.client.async_.batches import AsyncBatch
from bgd.client.blocking.batches import Batch
from bgd.executor import Executor, JobFuture


@bgd.job
def add(first: int, second: int = 2) -> int:
    return first + second


@bgd.job(queue="mail", retries=5, timeout=60)
async def send(address: str, *, copies: int = 1) -> list[str]:
    return [address] * copies


@bgd.job(cron="0 3 * * *", timezone="Europe/Paris", overlap="queue", late_after="10m", retries=2)
def clean_up(limit: int = 10) -> int:
    return limit


class Report:
    @bgd.job(priority=5)
    def text(self, pages: int) -> str:
        return f"{pages} pages"

    @classmethod
    @bgd.job
    def name(cls, suffix: str) -> str:
        return cls.__name__ + suffix


def use_functions(client: Client) -> None:
    number: int = add(1) + add.submit(1, second=2).result(timeout=3)
    address: str = send.submit("ada", copies=2).result()[0]
    letters: list[str] = send.options(queue="night", delay=5).submit("ada").result()
    text: str = Report().text(3) + Report().text.submit(3).result() + Report.text.submit(pages=3).result()
    name: str = Report.name("s") + Report.name.submit("s").result()
    many: list[Job[int]] = add.submit_many([(1, 2), {"first": 3}])
    mixed: list[Job] = client.submit_many([add.spec(1), send.spec("ada", copies=3)])
    any_job: Job = add.submit(1)
    function: JobFunction[[int], str] = Report().text
    added: list[str] = client.schedules.register(clean_up, clean_up.options(priority=3)).added
    scheduled: Job[int] = clean_up.submit(3)
    with bgd.using(client):
        print(added, scheduled, number, address, letters, text, name, many, mixed, any_job, function)


def use_maps(client: Client, paths: Iterator[Path]) -> None:
    numbers: list[int] = list(client.map(add, [1, 2], queue="a", timeout=3, time_limit=60, progress=False))
    letters: list[list[str]] = list(client.map(send, {"ada"}, buffersize=5))
    texts: Iterator[str] = client.map(Report().text, range(3))
    urgent: Iterator[int] = client.map(add.options(priority=5), iter([1]))
    either: Iterator[int | JobFailed] = client.map(add, [1], return_exceptions=True)
    objects: Iterator[object] = client.map("app:run", paths, return_exceptions=True)
    print(numbers, letters, texts, urgent, either, objects)


async def await_maps(client: AsyncClient) -> None:
    letters: list[list[str]] = [letter async for letter in client.map(send, ["ada"], timeout=3)]
    either: AsyncIterator[int | JobFailed] = client.map(add, [1], return_exceptions=True)
    print(letters, either)


async def await_functions(client: AsyncClient) -> None:
    job: AsyncJob[int] = await add.submit_async(1, second=2)
    number: int = await job.result()
    letters: list[str] = await (await send.options(priority=3).submit_async("ada")).result()
    with bgd.using(client):
        print(number, letters)


def use_an_executor(client: Client) -> None:
    with Executor(client, queue="mail", retries=0) as executor:
        future: JobFuture[int] = executor.submit(add, 1, second=2)
        standard: Future[str] = executor.submit(Report().text, 3)
        number: int = future.result(timeout=3) + future.job.result()
        numbers: list[int] = list(executor.map(add, [1, 2], [3, 4], timeout=3, chunksize=100))
        print(standard, number, numbers)


def hand_over(client: Client) -> list[Job]:
    first: Job = run_background_job("app.Service", "run", ["a", 1], priority=5, delay=0, queue="mail")
    make: Job = client.submit(["make", Path("all")], priority=5, retries=2, timeout=600, env={"A": "1"})
    line: Job = client.submit("ls | wc -l", shell=True, cwd=Path("/"), env_pass=["PATH"], umask=0o27)
    later: Job = client.submit(
        ["sort"],
        stdin=Path("in.txt"),
        at=datetime(2030, 1, 1, tzinfo=UTC),
        expires=3600,
        after=[make, 3],
        after_any=[line.id],
        key="nightly",
        slots=2,
        hold=True,
        pty=False,
        retry_on=[1, 2],
        no_retry_on=None,
    )
    reading: Job = client.submit(["cat"], input="text", at=1.5)
    call: Job = client.call("app:run", [1, "two"], {"three": 3.0}, retries=None, tags=["a"], input=b"bytes")
    many: list[Job] = client.submit_many([["true"], JobSpec(argv=("true",)), {"argv": ["true"], "slots": 2}])
    batch: Batch = client.batch((["true"] for _ in range(3)), "n", then=["true"], queue="mail", tags=["a"])
    chained: list[Job] = client.chain(["true"], {"target": "app:run"})
    return [first, make, line, later, reading, call, *many, *chained, *batch.wait("10s").jobs()]


def ask(client: Client, job: Job) -> None:
    number: int = job.id
    is_new: bool = job.is_new
    state: State = job.refresh().state
    outcome: Outcome | None = job.wait(timeout=3).outcome
    waits_for: list[int] = job.waits_for
    value: object = job.result(timeout=3)
    name: str | None = client.job(number).name
    jobs: list[Job] = client.jobs(states=[State.FAILED, "queued"], queue="mail", tag="a", before=9, limit=5)
    done: list[Job] = client.wait([job, 4], timeout=1.5)
    finished: Iterator[Job] = client.as_finished(jobs)
    data: list[bytes] = [part.data for part in job.logs(follow=True, tail=10)]
    pieces: Iterator[object] = client.logs(job, attempt=0, timestamps=True)
    last: int = client.last_event()
    whats: list[str] = [event.what for event in client.events(since=last, follow=False)]
    codes: list[int | None] = [attempt.exit_code for attempt in job.attempts()]
    print(is_new, state, outcome, waits_for, value, name, done, next(finished), data, pieces, whats, codes)


def act(client: Client, job: Job) -> None:
    states: list[State] = [
        job.cancel(),
        job.retry(),
        job.hold(),
        job.release(),
        job.suspend(),
        job.continue_(),
        job.send_signal(10, whole_tree=True),
    ]
    edited: Job = job.edit(priority=3, timeout=None, after=[job], env={"A": "1"})
    job.remove()
    results = [
        *client.cancel([job]),
        *client.cancel_waiting([job, 3]),
        *client.retry([1]),
        *client.hold([job, 2]),
        *client.release([1]),
        *client.suspend([1]),
        *client.continue_([1]),
        *client.signal([1], 9, whole_tree=True),
        *client.edit([1], queue="night", slots=2),
        *client.remove([1]),
    ]
    each: list[State | None] = [result.state for result in results]
    print(states, edited, each)


def look_after(client: Client) -> None:
    slots: int = client.set_slots(None).slots
    of_queue: list[int | None] = [queue.slots for queue in client.set_queue("night", 2).queues]
    paused: list[bool] = [client.pause().paused, client.resume("night").paused, client.queues().paused]
    client.remove_queue("night")
    median: float | None = client.stats(window=60).run_median
    pid: int = client.info().pid
    link: str = client.login_link()
    client.shutdown("wait", timeout=5)
    client.close()
    print(slots, of_queue, paused, median, pid, link)


async def hand_over_and_ask(client: AsyncClient) -> None:
    make: AsyncJob = await client.submit(["make"], priority=5, after=[3], key="nightly")
    call: AsyncJob = await client.call("app:run", args=["a"], kwargs={"x": 1}, after_any=[make])
    batch: AsyncBatch = await client.batch([["true"]], catch=["true"], retries=2)
    of_batch: list[AsyncJob] = await batch.jobs()
    many: list[AsyncJob] = await client.submit_many([["true"], {"target": "app:run", "args": [1]}])
    state: State = (await make.refresh()).state
    outcome: Outcome | None = (await make.wait(timeout=3)).outcome
    value: object = await call.result(timeout=3)
    name: str | None = (await client.job()).name
    jobs: list[AsyncJob] = await client.jobs(states=["failed"], limit=3)
    done: list[AsyncJob] = await client.wait(jobs, timeout=3)
    finished: AsyncIterator[AsyncJob] = client.as_finished([*many, *of_batch])
    data: list[bytes] = [part.data async for part in make.logs(follow=True)]
    async for event in client.events():
        what: str = event.what
        print(what)
    codes: list[int | None] = [attempt.exit_code for attempt in await make.attempts()]
    print(state, outcome, value, name, done, await anext(finished), data, codes)


def started(pid: int, log: str) -> None:
    print(pid, log)


async def act_and_look_after(job: AsyncJob) -> None:
    async with AsyncClient(timeout=5, autostart=False, on_autostart=started) as client:
        states: list[State] = [await job.cancel(), await job.hold(), await job.send_signal(10)]
        edited: AsyncJob = await job.edit(name=None, delay=5)
        await job.remove()
        each: list[State | None] = [result.state for result in await client.signal([job, 3], 9)]
        slots: int = (await client.set_slots(4)).slots
        postponed: list[str] = (await client.reload()).postponed
        paused: bool = (await client.pause("night")).paused
        pid: int = (await client.info()).pid
        median: float | None = (await client.stats()).wait_median
        await client.shutdown()
        print(states, edited, each, slots, postponed, paused, pid, median)


with Client("/run/bgd/bgd.sock", user=True) as a_client:
    print(hand_over(a_client), ask, act, look_after, hand_over_and_ask, act_and_look_after)
    print(use_functions, await_functions, use_an_executor)
