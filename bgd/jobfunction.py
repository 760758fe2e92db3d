"""The decorator `bgd.job`: adds methods to a function that queue calls of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from bgd.client.options import JobOptions

if TYPE_CHECKING:
    from typing import Literal, Unpack

    from bgd.client.async_.job import AsyncJob
    from bgd.client.blocking.job import Job
    from bgd.client.options import Duration
    from bgd.core.schedule_spec import ScheduleSpec
    from bgd.core.spec import JobSpec

    class FunctionOptions(JobOptions, total=False):
        """What `bgd.job` takes: options of jobs, and the settings of a schedule."""

        cron: str
        calendar: str
        every: str
        timezone: str
        overlap: Literal["skip", "allow", "queue", "replace"]
        missed: Literal["cron", "skip", "latest"]
        missed_within: Duration
        late_after: Duration
        excluded: Sequence[str]


P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

Arguments = Sequence[object] | Mapping[str, object]
"""The arguments of one call: positional or named ones."""

# Of a schedule. `jitter` is not among them: here it is about retries
_SETTINGS = (
    "cron",
    "calendar",
    "every",
    "timezone",
    "overlap",
    "missed",
    "missed_within",
    "late_after",
    "excluded",
)
_ADDED = ("submit", "submit_async", "submit_many", "spec", "s", "options", "schedule_spec")
_FOREIGN = ("delay", "enqueue", "apply_async", "perform_async", "perform_later", "dispatch", "send")


@overload
def job(function: Callable[P, R_co], /) -> JobFunction[P, R_co]: ...
@overload
def job(**options: Unpack[FunctionOptions]) -> Callable[[Callable[P, R_co]], JobFunction[P, R_co]]: ...
def job(function: Any = None, /, **options: Any) -> Any:
    """Give a function `submit`, `submit_many`, `submit_async`, `spec` or `s`, `options`, `schedule_spec`.

    The function is unchanged: a call runs here, and a worker finds it by its name if the daemon's
        configuration allows that. Because a worker imports this module for each job, what submitting needs is
    imported when something is submitted.

    Args:
        function: one at the top of a module, or a method of a class there. For each job of a method, the
            class is called without arguments to make the object. `staticmethod` and `classmethod` go above
            this decorator.
        options: of its jobs, as of `Client.call`; and one of `cron`, `calendar` and `every`, with
            `timezone`, `overlap`, `missed`, `missed_within`, `late_after` and `excluded`, for a schedule.
            The schedule is stored when you pass the function or its module to `client.schedules.register`.

    Raises:
        TypeError: it is not such a function, or an option is unknown.
        Refused: a value of an option is out of range or of the wrong type.
    """
    if function is None:
        schedule = {name: options.pop(name) for name in _SETTINGS if name in options}
        _check(options, schedule)
        return lambda function: _with_background(function, options, schedule)
    return _with_background(function, options, {})


class Background(Generic[P, R_co]):
    """Queues calls of a function, with options for its jobs.

    Each method checks the arguments as a call would. It raises TypeError if they do not fit the function, if
    JSON cannot represent them, or if no worker would find the function. A tuple arrives as a list. The job of
    a coroutine function returns what awaiting it returns.

    Jobs go to the client of `bgd.using`, else over one connection of the process, which also works in forked
    children and in threads. All methods raise what `Client.call` raises.
    """

    def __init__(
        self,
        function: Callable[P, R_co],
        options: JobOptions,
        schedule: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._function = function
        self._options = options
        self._schedule = schedule  # when `register` makes the function run, and the other settings of that
        self._unchecked: JobOptions = {**options, "check": False}  # for what this has checked itself

    @overload
    def submit(self: Background[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Job[T]: ...
    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job[R_co]: ...
    def submit(self, *args: Any, **kwargs: Any) -> Job[Any]:
        """Queue a call of the function; return when it is on disk."""
        from bgd.client.background import default_client  # noqa: PLC0415 - see `job`

        return default_client().call(
            self._checked(args, kwargs), args, kwargs, **self._options_of(args, kwargs)
        )

    @overload
    async def submit_async(
        self: Background[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncJob[T]: ...
    @overload
    async def submit_async(self, *args: P.args, **kwargs: P.kwargs) -> AsyncJob[R_co]: ...
    async def submit_async(self, *args: Any, **kwargs: Any) -> AsyncJob[Any]:
        """Queue a call of the function, from an event loop."""
        from bgd.client.background import default_async_client  # noqa: PLC0415 - see `job`

        target = self._checked(args, kwargs)
        return await default_async_client().call(target, args, kwargs, **self._options_of(args, kwargs))

    @overload
    def submit_many(
        self: Background[P, Coroutine[Any, Any, T]], calls: Iterable[Arguments]
    ) -> list[Job[T]]: ...
    @overload
    def submit_many(self, calls: Iterable[Arguments]) -> list[Job[R_co]]: ...
    def submit_many(self, calls: Iterable[Arguments]) -> list[Job[Any]]:
        """Queue many calls in one transaction: all of them, or none.

        Args:
            calls: for each call a tuple of positional arguments, or a mapping of named ones.
        """
        from bgd.client.background import default_client  # noqa: PLC0415 - see `job`

        return default_client().submit_many([self._spec(*_split(call)) for call in calls])

    def spec(self, *args: P.args, **kwargs: P.kwargs) -> JobSpec:
        """Return a call of the function as a JobSpec, which any client's `submit_many` takes."""
        return self._spec(args, kwargs)

    s = spec

    def options(self, **changed: Unpack[JobOptions]) -> Background[P, R_co]:
        """Return a Background with these options of `Client.call` changed.

        Raises:
            TypeError: an option is unknown.
            Refused: a value is out of range or of the wrong type.
        """
        options: JobOptions = {**self._options, **changed}
        _check(options, {})
        return Background(self._function, options, self._schedule)

    def schedule_spec(self) -> tuple[str, ScheduleSpec] | None:
        """Return name and definition of the function's schedule, as `register` stores it; None: it has none.

        Raises:
            TypeError: the function needs arguments, or no worker would find it.
            Refused: it has no name that a schedule can have.
        """
        if not self._schedule:
            return None
        from bgd.client.schedules import schedule_of_function  # noqa: PLC0415 - see `job`

        return schedule_of_function(self._spec((), {}), self._schedule)

    if not TYPE_CHECKING:

        def delay(self, *args, **kwargs):
            """Refuse names that other libraries use for `submit`; the message says what to write."""
            from bgd.client.functions import in_words  # noqa: PLC0415 - only for an error

            own = background_of(self._function, {})._options  # noqa: SLF001 - of the same class
            name = self._function.__qualname__
            if changed := {each: value for each, value in self._options.items() if own.get(each) != value}:
                name = in_words(f"{name}.options", (), changed)
            written = in_words(f"{name}.submit", args, kwargs)
            raise AttributeError(f"a job is queued by submit: write {written}")

        # of RQ, Sidekiq, Rails, Laravel and Dramatiq; `delay` is Celery's
        enqueue = perform_async = perform_later = dispatch = send = delay

        def apply_async(self, args=(), kwargs=None, **_):
            """Refuse what in Celery takes a list of arguments; its options have other names here."""
            self.delay(*args, **kwargs or {})

    def _spec(self, args: Sequence[object], kwargs: Mapping[str, object]) -> JobSpec:
        from bgd.client.specs import Caller, class_spec  # noqa: PLC0415 - see `job`

        return class_spec(self._checked(args, kwargs), args, kwargs, self._options_of(args, kwargs), Caller())

    def _options_of(self, args: Sequence[object], kwargs: Mapping[str, object]) -> JobOptions:
        """Return the options of a call; its keys name the arguments as they are passed."""
        key, limit = self._unchecked.get("key"), self._unchecked.get("limit")
        if key is None and limit is None:
            return self._unchecked
        from bgd.client.functions import key_as_passed  # noqa: PLC0415 - see `job`

        options = self._unchecked.copy()
        if key is not None:
            options["key"] = key_as_passed(self._function, key, args, kwargs)
        if limit is not None:
            name, places = (limit, 1) if isinstance(limit, str) else limit
            options["limit"] = key_as_passed(self._function, name, args, kwargs), places
        return options

    def _checked(self, args: Sequence[object], kwargs: Mapping[str, object]) -> str:
        """Return the function's target; raises TypeError if the arguments do not fit."""
        from bgd.client.functions import check_call, target_of  # noqa: PLC0415 - see `job`

        target = target_of(self._function)
        if self._options.get("check", True):
            check_call(self._function, args, kwargs)
        return target


class JobFunction(Background[P, R_co]):
    """What type checkers see of a function under `bgd.job`: the function itself, and its `Background`.

    For a method, its arguments are without object or class.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, here and now."""
        return self._function(*args, **kwargs)

    if TYPE_CHECKING:

        @overload
        def __get__(
            self: JobFunction[Concatenate[Any, Q], R_co], instance: object, owner: type | None = None
        ) -> JobFunction[Q, R_co]: ...
        @overload
        def __get__(self, instance: None, owner: type) -> JobFunction[P, R_co]: ...
        def __get__(self, instance: object, owner: type | None = None) -> Any: ...


def background_of(
    function: Callable[P, R_co] | Background[P, R_co], options: JobOptions
) -> Background[P, R_co]:
    """Return the Background of a function, with or without `bgd.job`; these options override its own."""
    if isinstance(function, Background):
        return function.options(**options)
    given = getattr(getattr(function, "options", None), "__self__", None)
    if isinstance(given, Background):
        return given.options(**options)
    return Background(function, options)


def _with_background(function: Any, options: Any, schedule: Mapping[str, Any]) -> Any:
    if isinstance(function, classmethod | staticmethod):
        raise TypeError(f"put @bgd.job below @{type(function).__name__}, next to the function")
    if isinstance(function, type) or not callable(function) or not hasattr(function, "__qualname__"):
        raise TypeError(f"@bgd.job is for functions and methods, not {function!r}")
    background: Background[..., Any] = Background(function, options, schedule)
    try:
        for name in _ADDED + _FOREIGN:
            setattr(function, name, getattr(background, name))
    except AttributeError:
        raise TypeError(f"@bgd.job is for functions written in Python, not {function!r}") from None
    return function


def _check(options: Any, schedule: Mapping[str, Any]) -> None:
    """Refuse options that no class job can have, except in a worker, which runs jobs and must start fast."""
    if "bgd_worker" in sys.modules:
        return
    if options:
        from bgd.client.specs import check_options  # noqa: PLC0415 - see `job`

        check_options(options)
    if schedule:
        from bgd.client.schedules import check_settings  # noqa: PLC0415 - see `job`

        check_settings(schedule)


def _split(call: Arguments) -> tuple[Sequence[object], Mapping[str, object]]:
    if isinstance(call, Mapping):
        return (), call
    if isinstance(call, str | bytes) or not isinstance(call, Sequence):
        raise TypeError(f"the arguments of each call are a tuple or a mapping, not {call!r}")
    return call, {}
