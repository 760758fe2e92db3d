"""A program whose marked lines are wrong, with the codes of mypy's errors. It is never run."""

import bgd
from bgd import AsyncClient, AsyncJob, Client, Job
from bgd.executor import Executor


@bgd.job
def add(first: int, second: int = 2) -> int:
    return first + second


@bgd.job
async def length(text: str) -> int:
    return len(text)


def misuse_of_functions(client: Client) -> None:
    bgd.job(quue="mail")  # E: call-overload
    bgd.job(cron="@daily", overlap="sometimes")  # E: call-overload
    add.submit("one")  # E: arg-type
    add.submit(1, third=3)  # E: call-arg
    add("one")  # E: arg-type
    text: str = add.submit(1).result()  # E: assignment
    number: str = length.submit("word").result()  # E: assignment
    add.options(priorty=5)  # E: call-arg
    add.submit_many([1, 2])  # E: list-item
    add.spec()  # E: call-arg
    add.delay(1)  # E: attr-defined
    client.submit("true", "now")  # E: arg-type
    client.enqueue(add, 1)  # E: attr-defined
    with bgd.using(add):  # E: arg-type
        print(text, number, client)


def misuse_of_an_executor(executor: Executor) -> None:
    executor.submit(add, "one")  # E: arg-type
    executor.submit(add, 1, third=3)  # E: call-arg
    text: str = executor.submit(add, 1).result()  # E: assignment
    Executor(quue="mail")  # E: call-arg
    print(text)


def misuse_of_maps(client: Client) -> None:
    client.map(add, ["one"])  # E: arg-type
    client.map(add, [1], prority=5)  # E: call-overload
    text: list[str] = list(client.map(add, [1]))  # E: arg-type
    numbers: list[int] = list(client.map(add, [1], return_exceptions=True))  # E: arg-type
    print(text, numbers)


async def misuse_of_awaited_functions() -> None:
    add.submit_async(1)  # E: unused-coroutine
    await add.submit_async("one")  # E: arg-type


def misuse(client: Client, job: Job) -> None:
    client.submit(["make"], priorty=5)  # E: call-arg
    client.submit(["make"], priority="high")  # E: arg-type
    client.submit(["make"], after=["3"])  # E: list-item
    client.submit(["make"], at=["tomorrow"])  # E: arg-type
    client.call(["app:run"])  # E: arg-type
    client.edit([job], key="new")  # E: call-arg
    job.edit(priority=None)  # E: arg-type
    client.cancel(job)  # E: arg-type
    client.signal([job])  # E: call-arg
    client.set_slots("all")  # E: arg-type
    print(job.colour)  # E: attr-defined
    number: int = job.result()  # E: assignment
    print(number)


async def misuse_of_awaiting(client: AsyncClient, job: AsyncJob) -> None:
    state: str = job.refresh().state  # E: attr-defined
    for part in job.logs():  # E: attr-defined
        print(part, state)
    client.submit(["make"])  # E: unused-coroutine
    with client:  # E: attr-defined
        await client.wait(job)  # E: arg-type
