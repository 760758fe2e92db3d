# Generated from bgd/client/async_/job.py by `make client`: edit that file.
"""A job object: the daemon's last answer about a job, and the actions on it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Generic, Self, Unpack, cast

from bgd.client.blocking.concurrency import first_view
from bgd.client.session import OTHER_NAMES, new_state
from bgd.client.specs import ResultReference
from bgd.core.explain import Explanation
from bgd.core.job import State
from bgd.wire.replies import LogPart
from bgd.wire.views import AttemptView, JobView, StepView

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from bgd.client.blocking.client import Client
    from bgd.client.options import Duration, EditOptions, JobAttributes

    R_co = TypeVar("R_co", covariant=True, default=object)
else:
    from typing import TypeVar

    JobAttributes = object  # only type checkers need the declarations, and each start would wait for them
    R_co = TypeVar("R_co", covariant=True)  # `default` is new in Python 3.13


class Job(Generic[R_co], JobAttributes):  # noqa: PYI059 - at run time the other one is object
    """One job. Its attributes are those of `JobView`, as they were when the job was last looked up.

    A job that was just submitted knows its `id`, and whether it `is_new` or existed with the same key. It
    is looked up when another attribute is read; `refresh` and `wait` look it up again.

    `obstacle`: why no job could start when it was submitted, None: no reason was known.
    Instants are epoch seconds, durations are seconds; None where there is no value.
    """

    def __init__(
        self,
        client: Client,
        job_id: int,
        view: JobView | None = None,
        *,
        is_new: bool = False,
        obstacle: str | None = None,
    ) -> None:
        self.id = job_id
        self.is_new = is_new
        self.obstacle = obstacle
        self._client = client
        self._view = view

    @property
    def view(self) -> JobView:
        """The daemon's last answer about the job, as an immutable value."""
        if self._view is None:
            self._view = first_view(self.id, self._client.view)
        return self._view

    if not TYPE_CHECKING:  # JobAttributes declares them

        def __getattr__(self, name):
            if name not in JobView.__struct_fields__:
                hint = f": use {OTHER_NAMES[name]}" if name in OTHER_NAMES else ""
                message = f"a job has no attribute {name!r}{hint}"
                raise AttributeError(message, name=name, obj=self)
            return getattr(self.view, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *JobView.__struct_fields__})

    @property
    def ref(self) -> R_co:
        """A placeholder for the job's result, to pass as an argument of another class job.

        The job itself is one, too; type checkers take this one for the result.
        """
        return cast("R_co", ResultReference(self.id))

    def refresh(self) -> Self:
        """Look the job up again; return the job itself."""
        self._view = self._client.view(self.id)
        return self

    def wait(self, timeout: Duration | None = None) -> Self:
        """Wait until the job has finished, even across restarts of the daemon; return the job itself.

        Raises:
            TimeoutError: it has not finished within `timeout`.
        """
        [finished] = self._client.wait([self.id], timeout=timeout)
        self._view = finished.view
        return self

    def result(self, timeout: Duration | None = None) -> R_co:
        """Wait, then return the value of a class job, or 0 for a command.

        Raises:
            JobFailed: it did not succeed.
            TimeoutError: it has not finished within `timeout`.
        """
        return self._client.result(self, timeout=timeout)

    def output(self, timeout: Duration | None = None) -> str:
        """Wait, then return what the latest attempt printed; bytes that are not UTF-8 are replaced.

        Raises:
            TimeoutError: it has not finished within `timeout`.
        """
        self.wait(timeout)
        return b"".join([part.data for part in self.logs()]).decode(errors="replace")

    def explain(self) -> Explanation:
        """Return what keeps the job from running, in order, and when it will likely start."""
        return self._client.explain(self.id)

    def steps(self) -> list[StepView]:
        """Return what the job has recorded of its steps, in their order."""
        return self._client.steps(self.id)

    def attempts(self) -> list[AttemptView]:
        return self._client.attempts(self.id)

    def logs(
        self,
        *,
        attempt: int | None = None,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> Generator[LogPart, None, None]:
        """Yield the job's output; see `Client.logs`."""
        return self._client.logs(self.id, attempt=attempt, follow=follow, tail=tail, timestamps=timestamps)

    # --- actions: each returns the new state, and raises Refused if the old state does not allow it -------

    def cancel(self) -> State:
        """Cancel the job. A running one is `stopping` until its processes have ended."""
        return new_state(self._client.cancel([self.id]))

    def retry(self, *, alone: bool = False) -> State:
        """Let the finished job wait again, as `Client.retry` does."""
        return new_state(self._client.retry([self.id], alone=alone))

    def hold(self) -> State:
        """Keep the waiting job from starting until it is released."""
        return new_state(self._client.hold([self.id]))

    def release(self) -> State:
        """Let the held job start when its turn comes."""
        return new_state(self._client.release([self.id]))

    def suspend(self) -> State:
        """Stop the processes of the running job; its time limit pauses, and it keeps its slot."""
        return new_state(self._client.suspend([self.id]))

    def continue_(self) -> State:
        """Continue the suspended job."""
        return new_state(self._client.continue_([self.id]))

    def send_signal(self, signum: int, *, whole_tree: bool = False) -> State:
        """Send a signal to the running job's first process, or to all of its processes."""
        return new_state(self._client.signal([self.id], signum, whole_tree=whole_tree))

    def edit(self, *, check: bool = True, **changes: Unpack[EditOptions]) -> Self:
        """Change the waiting job; return the job itself, looked up again. `check`: as of `Client.edit`.

        Raises:
            Refused: it is not waiting, a value is out of range, or a program, folder or input is missing.
        """
        new_state(self._client.edit([self.id], check=check, **changes))
        return self.refresh()

    def remove(self) -> None:
        """Delete the finished job and its logs.

        Raises:
            Refused: it has not finished.
        """
        new_state(self._client.remove([self.id]))

    def __repr__(self) -> str:
        return f"<Job {self.id}>" if self._view is None else f"<Job {self.id} {self._view.state}>"
