"""What sessions were told about their jobs, and the laws that this must obey."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from bgd.wire.views import JobView

UNKNOWN = 125  # what `run` exits with if the outcome is lost
MAX_ANSWER = 4096  # bytes of stdout and stderr of one call together, or of one answer of the server


class Told(Struct, frozen=True):
    """An end that a session was told.

    `by`: what told it: `inbox` and `hook` hand out each end once; `wait` is any command that waited for it,
    after which the inbox no longer has it, unless it was being read meanwhile.
    `code`: None if there is none, for example because the job was cancelled.
    """

    session: str
    job: int
    by: str
    code: int | None
    is_unknown: bool = False
    event: int | None = None
    redelivered: bool = False
    blocked: bool = False  # it kept the agent from stopping


class Call(Struct, frozen=True):
    """A call of a tool that has returned or was cut off.

    `waits`: it is a turn that waits, or what wakes an agent that has ended its turn. `has_news`: it printed
    an id, output, or an end that its session did not know.
    """

    words: Sequence[str]
    code: int | None  # None: it was killed at its time limit
    size: int
    waits: bool
    has_news: bool
    met_no_daemon: bool = False


class Ledger:
    """Everything that happened; each agent adds to it on a thread of its own."""

    def __init__(self) -> None:
        self.submitted: list[tuple[str, int]] = []  # sessions and ids that were printed
        self.exits: list[tuple[str, int]] = []  # the exit codes of `run`, and the names of its commands
        self.told: list[Told] = []
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()

    def told_of(self, session: str, *ways: str) -> set[int]:
        """Return the jobs whose ends a session was told, in these ways."""
        return {told.job for told in list(self.told) if told.session == session and told.by in ways}

    def violations(
        self, jobs: Sequence[JobView], codes: Mapping[str, int], *, launcher_was_killed: bool
    ) -> list[str]:
        """Return a sentence for each violation of a law; the list is empty if all laws hold.

        Args:
            jobs: all jobs of the daemon, at the end.
            codes: the exit codes that commands recorded before they ended, by job and by name.
            launcher_was_killed: outcomes may be unknown.
        """
        return [
            *self._lost(jobs),
            *self._told_twice(),
            *self._wrong_codes(codes, launcher_was_killed=launcher_was_killed),
            *self._wasted_turns(),
            *self._left(jobs),
        ]

    def _lost(self, jobs: Sequence[JobView]) -> Iterator[str]:
        """Each end is delivered to its own session, and each job whose id was printed exists."""
        owners = {job.id: job.session for job in jobs}
        for session, number in self.submitted:
            if owners.get(number) != session:
                yield f"job {number} of {session} is lost"
        delivered = {(told.session, told.job) for told in self.told}
        for number, owner in owners.items():
            if owner is not None and (owner, number) not in delivered:
                yield f"{owner} was not told of the end of job {number}"
        for told in self.told:
            if owners.get(told.job) != told.session:
                yield f"{told.session} was told of job {told.job}, which is of {owners.get(told.job)}"

    def _told_twice(self) -> Iterator[str]:
        """An end comes twice only with the same number and marked, and blocks a stop at most once."""
        known, blocked, events = set[int](), Counter[int](), dict[int, int]()
        for told in self.told:
            if told.by == "wait":
                continue
            if told.job in known and not told.redelivered:
                yield f"the end of job {told.job} came again to {told.session}, not marked"
            known.add(told.job)
            blocked[told.job] += told.blocked
            if told.event is not None and events.setdefault(told.job, told.event) != told.event:
                yield f"the end of job {told.job} has the numbers {events[told.job]} and {told.event}"
        yield from (
            f"the end of job {job} blocked {times} stops" for job, times in blocked.items() if times > 1
        )

    def _wrong_codes(self, codes: Mapping[str, int], *, launcher_was_killed: bool) -> Iterator[str]:
        """The exit code told is the one with which the command ended."""
        for told in self.told:
            if told.is_unknown and not launcher_was_killed:
                yield f"the outcome of job {told.job} is unknown, and no launcher was killed"
            code = codes.get(str(told.job))
            if told.code != code and not (told.code is None and told.is_unknown):
                yield f"job {told.job} exited with {code}, and {told.code} was told"
        for name, code in self.exits:
            if code != codes.get(name) and not (code == UNKNOWN and launcher_was_killed):
                yield f"command {name} exited with {codes.get(name)}, and `run` with {code}"

    def _wasted_turns(self) -> Iterator[str]:
        """No turn is spent waiting: no call that waits returns with nothing new. No answer is long."""
        for call in self.calls:
            words = " ".join(call.words)
            if call.size > MAX_ANSWER:
                yield f"{call.size} bytes: {words}"
            if call.waits and call.code is not None and not (call.has_news or call.met_no_daemon):
                yield f"nothing new (exit code {call.code}): {words}"

    def _left(self, jobs: Sequence[JobView]) -> Iterator[str]:
        """No job is left: no session asked to keep one."""
        for job in jobs:
            if job.finished_at is None:
                yield f"job {job.id} of {job.session} is left: {job.state}"
