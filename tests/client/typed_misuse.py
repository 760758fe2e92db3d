"""A program that is wrong on each line that says so, with the code of mypy's complaint. It is never run."""

from bgd import AsyncClient, AsyncJob, Client, Job


def misuse(client: Client, job: Job) -> None:
    client.submit(["make"], priorty=5)  # E: call-arg
    client.submit(["make"], priority="high")  # E: arg-type
    client.submit(["make"], after=["3"])  # E: list-item
    client.submit(["make"], at="tomorrow")  # E: arg-type
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
