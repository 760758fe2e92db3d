"""Find the function or method that a job names, or say why the job may not call it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from .process import exit_if_forked

TYPE_CHECKING = False  # not typing's: importing that takes a tenth of an interpreter's start
if TYPE_CHECKING:
    from typing import Any


class Refusal(Exception):
    """The job must not run: it is unreadable, or its target does not match its name."""


def resolve(
    module: str, name: str, method: str | None, allowed: Sequence[str] | None = None
) -> Callable[..., object]:
    """Return the function, or the method of a class.

    The configuration allowed the name as text, so the object must have been defined under exactly that name:
    an imported `subprocess.run` was not. An inherited method must be in `allowed`, by its own name or by the
    class that defines it. With `allowed` None every method of the class may be called.

    Raises:
        Refusal: the target is private, of the wrong kind, or defined elsewhere, or it is not allowed.
        Exception: whatever the import of the module raises.
    """
    if name.startswith("_") or (method or "").startswith("_"):
        raise Refusal(f"{name}.{method}: names that begin with an underscore are private")
    found = attribute(module, name)
    if isinstance(found, type):
        if method is None:
            raise Refusal(f"{module}:{name} is a class: name a method too, as {module}:{name}.METHOD")
        _check_name(found, module, name)
        _check_entry(module, name, method, allowed)
        return _method(found, module, method, allowed)
    if method is None and not callable(found) and (task := _task_of_django(found)) is not None:
        _check_name(task.func, module, name)
        _check_code(task.func, module, name, home=module)
        runner_of = getattr(task.get_backend(), "runner_of", None)
        runner: Callable[..., object] = task.func if runner_of is None else runner_of(task)
        return runner
    if method is not None or not callable(found) or not hasattr(found, "__qualname__"):
        raise Refusal(f"{module}:{name} is not a {'class' if method else 'function'}")
    _check_name(found, module, name)
    _check_code(found, module, name, home=module)
    return found


def _task_of_django(found: Any) -> Any:
    """Return what was found if it is a Task of Django, or of the package django-tasks; else None."""
    kinds = {(kind.__module__, kind.__name__) for kind in type(found).__mro__}
    return found if kinds & {("django.tasks.base", "Task"), ("django_tasks.base", "Task")} else None


def call(function: Callable[..., object], args: Sequence[Any], kwargs: dict[str, Any]) -> object:
    """Call a function or class; do not retry if the arguments do not fit it."""
    try:
        return function(*args, **kwargs)
    except TypeError as error:
        if not _has_run(function, error) and not _takes(function, args, kwargs):
            without_retry(error)
        raise


def with_cause(function: Callable[..., object], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Add the cause of a follow-up to its named arguments, as far as its function has parameters for it."""
    import inspect  # noqa: PLC0415  slow, and only a job that follows another needs it

    named = inspect.signature(function).parameters
    cause: dict[str, Any] = {name: os.environ.get(f"BGD_{name.upper()}") for name in _CAUSE}
    cause["cause_id"] = int(cause["cause_id"])
    return {name: value for name, value in cause.items() if name in named} | kwargs


_CAUSE = ("cause_id", "cause_name", "cause_outcome", "cause_error", "cause_output")


def _has_run(function: Callable[..., object], error: Exception) -> bool:
    """Return whether the function itself was running: its decorators may have added to the arguments."""
    code = getattr(_unwrapped(function, "it"), "__code__", None)
    return any(frame.f_code is code for frame, _ in traceback.walk_tb(error.__traceback__))


def _takes(function: Callable[..., object], args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    import inspect  # noqa: PLC0415  slow, and only a TypeError pays for it

    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # a function that is not written in Python may have no signature
        return True
    return True


def without_retry(error: Exception) -> Exception:
    """Return the error, marked like `bgd_job.Fail`: another attempt would not help."""
    error.bgd_wish = {"aim": "fail"}  # type: ignore[attr-defined]
    return error


def attribute(module: str, name: str) -> object:
    """Import a module and return what it defines under a name; do not retry if either is not there.

    Raises:
        Exception: as `resolve`.
    """
    if module == "__main__":
        raise Refusal("__main__ is the worker program, not a module of the job")
    try:
        __import__(module)
    except LASTING_ERRORS as error:
        if isinstance(error, ModuleNotFoundError):
            error.msg = f"{error}{_where_it_was_searched(module, error.name or '')}"
        without_retry(error)
        raise
    exit_if_forked(0)
    try:
        return getattr(sys.modules[module], name)
    except AttributeError:
        nearest = _nearest(name, sys.modules[module])
        raise without_retry(AttributeError(f"module {module!r} has no {name!r}{nearest}")) from None


LASTING_ERRORS = (ImportError, SyntaxError)  # of an import: the next attempt would find the same code


def _where_it_was_searched(module: str, missing: str) -> str:
    if f"{module}.".startswith(f"{missing}."):
        return (
            f" on the path {os.pathsep.join(sys.path)} of {sys.executable}: set [python] path or interpreter"
        )
    return f", which {module} needs, for {sys.executable}: install it there, or set [python] interpreter"


def _nearest(name: str, *owners: object) -> str:
    """Return a question that suggests a similar public name of these objects, "" if there is none."""
    import difflib  # noqa: PLC0415  only a misspelt name pays for it

    # sys.modules may hold anything in the place of a module
    found = [each for owner in owners for each in getattr(owner, "__dict__", ())]
    known = {each for each in found if isinstance(each, str) and not each.startswith("_")}
    alike = difflib.get_close_matches(name, sorted(known), n=1)
    return f": did you mean {alike[0]}?" if alike else ""


def _method(owner: type, module: str, method: str, allowed: Sequence[str] | None) -> Callable[..., object]:
    """Return a method, bound to a new instance unless it is a class or static method."""
    named = f"{owner.__qualname__}.{method}"
    home = next((base for base in owner.__mro__ if method in vars(base)), None)
    if home is None:
        nearest = _nearest(method, *owner.__mro__)
        missing = AttributeError(f"{module}:{owner.__qualname__} has no method {method!r}{nearest}")
        raise without_retry(missing)
    definition = vars(home)[method]
    is_of_class = isinstance(definition, (classmethod, staticmethod))
    function = definition.__func__ if is_of_class else definition
    if isinstance(function, type) or not callable(function):
        raise Refusal(f"{module}:{named} is not a method")
    is_by_name = home is not owner and _is_inherited_by_name(home, f"{module}.{named}", method, allowed)
    # libraries give their classes any __module__, so an inherited method is recognized by its own name
    if not is_by_name or getattr(function, "__qualname__", None) != f"{home.__qualname__}.{method}":
        _check_code(function, module, named, home=module if home is owner else home.__module__)
    # bind the checked object itself: a lookup by name on an instance might find another one
    bind = getattr(type(definition), "__get__", None)
    bound: Callable[..., object] = (
        bind(definition, None if is_of_class else call(owner, (), {}), owner) if bind else function
    )
    return bound


def _is_inherited_by_name(home: type, named: str, method: str, allowed: Sequence[str] | None) -> bool:
    """Return True if an entry names the inherited method or its class, False if one names its whole module.

    The author of an entry may not know what base classes can do: a parser in a base may unpickle its
    argument.

    Raises:
        Refusal: no entry covers the method.
    """
    defining = f"{home.__module__}.{home.__qualname__}"
    if allowed is None or named in allowed or defining in allowed or f"{defining}.{method}" in allowed:
        return True
    if f"{home.__module__}.*" in allowed:
        return False
    raise Refusal(
        f"{named} is inherited from {defining}, which is not in [security] allowed_classes: "
        f'add "{named}" there, or "{defining}", then `bgctl reload`'
    )


def _check_entry(module: str, name: str, method: str, allowed: Sequence[str] | None) -> None:
    """Refuse a method whose only entry could also name a function in a module called like the class."""
    entry = f"{module}.{name}.{method}"
    if allowed is None or entry not in allowed or {f"{module}.{name}", f"{module}.*"} & {*allowed}:
        return
    if _is_module(f"{module}.{name}", sys.modules[module]):
        raise Refusal(
            f'{module}:{name}.{method} is not in [security] allowed_classes, where "{entry}" means '
            f'{module}.{name}:{method}: add "{module}.{name}" there, then `bgctl reload`'
        )


def _is_module(name: str, parent: object) -> bool:
    """Return whether a package has this module, imported or not."""
    if name in sys.modules:
        return True
    if not hasattr(parent, "__path__"):
        return False
    from importlib.util import find_spec  # noqa: PLC0415  only a method that is listed by its name needs it

    return find_spec(name) is not None


def _check_name(found: Any, module: str, name: str) -> None:
    if "<" in str(found.__qualname__):  # a lambda, or a local of a function
        raise Refusal(
            f"{module}:{name} is {found.__module__}:{found.__qualname__}, which cannot be called by name: "
            "define it with def, and use functools.wraps in its decorators"
        )
    if (found.__module__, found.__qualname__) != (module, name):
        raise Refusal(
            f"{module}:{name} is another name of {found.__module__}:{found.__qualname__}: allow and call that"
        )


def _check_code(function: Any, module: str, name: str, home: str) -> None:
    """Refuse what is not a function with code of its own from the module `home`, whatever __module__ claims.

    A method of another object, a functools.partial or an object that can be called is for use by the class,
    not for callers.
    """
    function = _unwrapped(function, f"{module}:{name}")
    if "__code__" not in vars(type(function)):  # not hasattr: a bound method has the code of its function
        kind = type(function).__name__
        raise Refusal(f"{module}:{name} is a {kind}, not a function with code of its own: define it with def")
    found = function.__globals__.get("__name__", home)
    if found != home:
        raise Refusal(f"{module}:{name} is defined in {found}: allow and call that")


def _unwrapped(function: Any, target: str) -> Any:
    """Return the function inside all decorators that used functools.wraps."""
    for _ in range(_MAX_WRAPPERS):
        if "__wrapped__" not in getattr(function, "__dict__", {}):
            return function
        function = vars(function)["__wrapped__"]
    raise Refusal(f"{target} is wrapped around itself, or more than {_MAX_WRAPPERS} times")


_MAX_WRAPPERS = 100
