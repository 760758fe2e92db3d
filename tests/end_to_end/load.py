"""Clients that submit jobs and remember the answers; each job records its own starts and ends in a file."""

from __future__ import annotations

import json
import os
import random
import threading
from contextlib import closing

from msgspec.structs import replace

from bgd.core.spec import Isolation, JobSpec
from bgd.wire.replies import Info, Submitted
from bgd.wire.requests import GetInfo, Submit
from tests.end_to_end.chaos import Caller, ClientThreads, Gone, Rig

# Each attempt takes its job's lock, which reveals two at once, and records its start and the code with which
# it will exit. $1: folder, $2: seconds to sleep, $3: exit code, $4: exit code of the first attempt.
SCRIPT = """
exec 9>"$1/lock.$BGD_JOB_ID"
flock -n 9 || echo "overlap $BGD_JOB_ID $BGD_ATTEMPT" >> "$1/truth"
echo "start $BGD_JOB_ID $BGD_ATTEMPT" >> "$1/truth"
sleep "$2"
code="$3"
[ "$BGD_ATTEMPT" = 1 ] && code="$4"
echo "end $BGD_JOB_ID $BGD_ATTEMPT $code" >> "$1/truth"
exit "$code"
"""

# the same as a class job
MODULE = """
import fcntl, os, sys, time

def run(kind, folder, seconds, code, first):
    who = os.environ["BGD_JOB_ID"] + " " + os.environ["BGD_ATTEMPT"]

    def tell(text):
        with open(folder + "/truth", "a") as truth:
            truth.write(text + "\\n")

    with open(folder + "/lock." + os.environ["BGD_JOB_ID"], "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("overlap " + who)
        tell("start " + who)
        time.sleep(float(seconds))
        if os.environ["BGD_ATTEMPT"] == "1":
            code = first
        tell("end " + who + " " + code)
    if code != "0":
        sys.exit(int(code))
"""
CLASSES = """
[security]
allowed_classes = ["truth.*"]
[python]
path = ["{folder}"]
preload = ["truth"]
[retry]
delay = "100ms"
"""

# Of 100 jobs, how many are of each kind
KINDS = {"quick": 60, "long": 10, "fails once": 15, "fails": 10, "too slow": 5}
DEPENDENT = 0.2  # share of jobs that wait for one of the latest
RECENT = 30
MOST_WAITING = 200  # a client pauses while so many wait: a longer queue only takes time at the end


class Load:
    """Clients that submit all the time and remember which jobs were acknowledged."""

    def __init__(
        self, rig: Rig, clients: int = 4, seed: int = 0, isolations: tuple[Isolation, ...] = ()
    ) -> None:
        """Submit class jobs with these `isolations`, or commands if there are none."""
        self._rig = rig
        self._dice = random.Random(seed)
        self._isolations = isolations
        self._lock = threading.Lock()
        self.acknowledged: dict[int, JobSpec] = {}
        self.unanswered = 0
        self.threads = ClientThreads([self._live] * clients)

    def _live(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with closing(Caller(self._rig.socket)) as caller:
                    self._submit(caller, stop)
            except Gone:
                stop.wait(0.02)

    def _submit(self, caller: Caller, stop: threading.Event) -> None:
        while not stop.wait(0.02):
            info = caller.ask(GetInfo(1))
            assert isinstance(info, Info), info
            if info.counts["queued"] > MOST_WAITING:
                continue
            self._submit_one(caller, self._spec())

    def submit_undisturbed(self, kind: str) -> None:
        """Submit a job of this kind that waits for no other, once nothing is killed any more."""
        with closing(Caller(self._rig.socket)) as caller:
            self._submit_one(caller, replace(self._spec(kind), after=(), after_any=()))

    def _submit_one(self, caller: Caller, spec: JobSpec) -> None:
        try:
            reply = caller.ask(Submit(1, spec))
        except Gone:
            self.unanswered += 1
            raise
        assert isinstance(reply, Submitted), reply
        with self._lock:
            self.acknowledged[reply.jobs[0]] = spec

    def _spec(self, kind: str = "") -> JobSpec:
        """Return a random job: most are quick, some outlive a daemon, some fail once, some are too slow."""
        with self._lock:
            [chosen] = self._dice.choices(list(KINDS), list(KINDS.values()))
            kind = kind or chosen
            seconds = self._dice.uniform(0.0, 0.1) if kind != "long" else self._dice.uniform(0.5, 1.5)
            code = self._dice.randint(1, 100)
            isolation = self._dice.choice(self._isolations) if self._isolations else None
            recent = list(self.acknowledged)[-RECENT:]
            waits = self._dice.random() < DEPENDENT and bool(recent)
            other = (self._dice.choice(recent),) if waits else ()
            on_success = self._dice.random() < 0.5
        codes = {"fails once": (0, code), "fails": (code, code)}.get(kind, (0, 0))
        retries = {"fails once": 3, "long": 3}.get(kind, 0)
        sleep = 30.0 if kind == "too slow" else seconds
        words = (kind, str(self._rig.folder), f"{sleep:.3f}", *map(str, codes))
        common = JobSpec(
            cwd="/",
            retries=retries,
            timeout=0.4 if kind == "too slow" else None,
            priority=1 if seconds > 0.05 else 0,
            after=other if on_success else (),
            after_any=() if on_success else other,
        )
        if isolation is None:
            return replace(common, argv=("/bin/sh", "-c", SCRIPT, *words), env={"PATH": os.environ["PATH"]})
        return replace(common, target="truth:run", arguments=json.dumps({"args": words}), isolation=isolation)
