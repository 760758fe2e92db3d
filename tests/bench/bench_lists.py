"""How quick are submits, starts, lists and pages beside up to a million jobs? P10: queued; P11: finished."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

from bgd.core.job import State
from bgd.core.spec import DEFAULT_QUEUE
from bgd.wire.replies import End, Login
from bgd.wire.requests import GetLogin, GetQueues, GetStats, List, Pause, Request, Resume
from tests.bench.bench_latency import submit_to_start
from tests.bench.filled import RARE, fill
from tests.bench.harness import BareClient, Daemon, daemon, percentiles, report, submit
from tests.bench.options import arguments

JOBS = (1_000, 10_000, 100_000, 1_000_000)
QUICK = (1_000, 3_000)
TIMES = 40  # for each question
SUBMITS = 2_000
PLACE = "127.0.0.2:48643"  # where pages have no other name
KEPT = '[retention]\nsucceeded_for = "unlimited"\nmax_finished = "unlimited"\nlogs_total = "unlimited"\n'


def questions(state: State, jobs: int) -> dict[str, List]:
    """Return the queries: for what many jobs are, what few are, and what none is."""
    now = time.time()
    one_state = {
        "state": {},
        "rare queue": {"queue": "rare"},
        "no queue": {"queue": "none"},
        "usual queue": {"queue": "default"},
        "usual name": {"name": "thumbnail-*"},
        "rare name": {"name": "rare-*"},
        "rare name's middle": {"name": "*are-*5*"},
        "no name": {"name": "*[0-9]x*"},
        "rare tag": {"tag": "rare"},
        "since a minute ago": {"since": now - 60},
        "since now": {"since": now},
        "nobody's in the rare queue": {"queue": "rare", "name": "nobody"},
        "far page": {"before": jobs // 2},
    }
    asked = {name: List(id=1, states=[state], **fields) for name, fields in one_state.items()}  # type: ignore[arg-type]  # of mixed types
    return asked | {
        "bare": List(id=1),
        "failed": List(id=1, states=[State.FAILED]),
        "rare queue in any state": List(id=1, states=list(State), queue="rare"),
        "no name in any state": List(id=1, states=list(State), name="nobody*"),
    }


def timed(ask: Callable[[], object], times: int = TIMES) -> dict[str, float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - began)
    return percentiles(taken)


def stream(client: BareClient, request: Request) -> None:
    client.send(request)
    while not isinstance(client.receive(), End):
        pass


def browser(client: BareClient) -> OpenerDirector:
    """Return a browser that is logged in."""
    login = client.ask(GetLogin(1))
    assert isinstance(login, Login), login
    opener = build_opener(HTTPCookieProcessor())
    read(opener, login.url)
    return opener


def read(opener: OpenerDirector, address: str) -> None:
    with opener.open(address, timeout=60) as answer:
        answer.read()


def start_times(running: Daemon, client: BareClient) -> list[float]:
    """Return how long jobs of another queue took from submit to first instruction, while all these stay."""
    for queue in (DEFAULT_QUEUE, "rare"):
        client.ask(Pause(1, queue))
    client.ask(Resume(1))
    return submit_to_start(running.socket, running.folder / "logs", TIMES, queue="quick")


def measure(running: Daemon, state: State, jobs: int) -> dict[str, object]:
    client = running.connect()
    megabytes = running.resident_megabytes()
    starts = start_times(running, client)
    lists = {name: timed(partial(stream, client, query)) for name, query in questions(state, jobs).items()}
    opener = browser(client)
    pages = ("", "?queue=rare", f"?state={state}&queue=rare", "?name=nobody*", "?state=failed", "?tag=rare")
    return {
        "start_to_ready_s": round(running.start_time, 2),
        "resident_mb_at_first": megabytes,
        "list_ms": lists,
        "page_ms": {
            address: timed(partial(read, opener, f"http://{PLACE}/job-logs{address}")) for address in pages
        },
        "stats_ms": timed(lambda: client.ask(GetStats(1))),
        "queues_ms": timed(lambda: client.ask(GetQueues(1))),
        "start_ms": percentiles(starts),
        "submit_ms": timed(lambda: client.ask(submit(1)), SUBMITS),
        "resident_mb_at_last": running.resident_megabytes(),
    }


def main() -> None:
    options = arguments(__doc__, rounds=1)
    for jobs in QUICK if options.quick else JOBS:
        figures: dict[str, object] = {"jobs": jobs, "rare_are": jobs // RARE}
        for state in (State.QUEUED, State.SUCCEEDED):
            figures[state.value] = filled_and_measured(state, jobs)
        report("lists", **figures)


def filled_and_measured(state: State, jobs: int) -> dict[str, object]:
    rates: list[float] = []

    def prepare(folder: Path) -> None:
        is_finished = state is State.SUCCEEDED
        rates.append(asyncio.run(fill(folder / "bgd.db", jobs, finished=is_finished, uid=os.getuid())))

    with daemon(slots=1, extra=f'[http]\nlisten = "{PLACE}"\n{KEPT}', prepare=prepare) as running:
        return {"stored_a_second": round(rates[0])} | measure(running, state, jobs)


if __name__ == "__main__":
    main()
