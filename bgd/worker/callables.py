"""From a name to what it names: the function or method that a job is to call, or why it may not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from .process import leave_if_forked

TYPE_CHECKING = False  # as typing's, whose import is a tenth of an interpreter's start
if TYPE_CHECKING:
    from typing import Any


class Refusal(Exception):
    """What was found under the name is not what the name says."""


def resolved(
    module: str, name: str, method: str | None, allowed: Sequence[str] | None = None
) -> Callable[..., object]:
    """Return the function, or the method of a class.

    The name was allowed as text, so what it leads to must have been defined under just that name: an
    imported `subprocess.run` was not. An inherited method must be in `allowed` by its own name or by
    the class that defines it; None: every method of the class may be called.
    """
    if name.startswith("_") or (method or "").startswith("_"):
        raise Refusal(f"{name}.{method}: names that begin with an underscore are private")
    found = _attribute(module, name)
    if isinstance(found, type):
        if method is None:
            raise Refusal(f"{module}:{name} is a class: say which method, as {module}:{name}.METHOD")
        _check_name(found, module, name)
        _check_entry(module, name, method, allowed)
        return _method(found, module, method, allowed)
    if method is not None or not callable(found) or not hasattr(found, "__qualname__"):
        raise Refusal(f"{module}:{name} is no {'class' if method else 'function'}")
    _check_name(found, module, name)
    _check_code(found, module, name, home=module)
    return found


def _attribute(module: str, name: str) -> object:
    if module == "__main__":
        raise Refusal("__main__ is the worker program, not a module of the job")
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        error.msg = f"{error}{_where_it_was_looked_for(module, error.name or '')}"
        raise
    leave_if_forked(0)
    try:
        return getattr(sys.modules[module], name)
    except AttributeError:
        nearest = _nearest(name, sys.modules[module])
        raise AttributeError(f"module {module!r} has no {name!r}{nearest}") from None


def _where_it_was_looked_for(module: str, missing: str) -> str:
    if f"{module}.".startswith(f"{missing}."):
        return (
            f" on the path {os.pathsep.join(sys.path)} of {sys.executable}: set [python] path or interpreter"
        )
    return f", which {module} needs, for {sys.executable}: install it there, or set [python] interpreter"


def _nearest(name: str, *owners: object) -> str:
    """Ask whether another name was meant, if one of these has one that is much like it."""
    import difflib  # noqa: PLC0415  only who made a slip pays for it

    # what stands in the place of a module may be anything
    found = [each for owner in owners for each in getattr(owner, "__dict__", ())]
    known = {each for each in found if isinstance(each, str) and not each.startswith("_")}
    alike = difflib.get_close_matches(name, sorted(known), n=1)
    return f": did you mean {alike[0]}?" if alike else ""


def _method(owner: type, module: str, method: str, allowed: Sequence[str] | None) -> Callable[..., object]:
    """Return a class's own or inherited method, bound to a new instance unless it is one of the class."""
    named = f"{owner.__qualname__}.{method}"
    home = next((base for base in owner.__mro__ if method in vars(base)), None)
    if home is None:
        nearest = _nearest(method, *owner.__mro__)
        raise AttributeError(f"{module}:{owner.__qualname__} has no method {method!r}{nearest}")
    definition = vars(home)[method]
    is_of_class = isinstance(definition, (classmethod, staticmethod))
    function = definition.__func__ if is_of_class else definition
    if isinstance(function, type) or not callable(function):
        raise Refusal(f"{module}:{named} is no method")
    is_by_name = home is not owner and _is_inherited_by_name(home, f"{module}.{named}", method, allowed)
    # libraries name the modules of their classes as they like; an inherited method is known by its own name
    if not is_by_name or getattr(function, "__qualname__", None) != f"{home.__qualname__}.{method}":
        _check_code(function, module, named, home=module if home is owner else home.__module__)
    # by what was judged, not by its name: an object may hold something else under that
    bind = getattr(type(definition), "__get__", None)
    bound: Callable[..., object] = (
        bind(definition, None if is_of_class else owner(), owner) if bind else function
    )
    return bound


def _is_inherited_by_name(home: type, named: str, method: str, allowed: Sequence[str] | None) -> bool:
    """Tell whether an entry names an inherited method or its class; False: one names the module of the class.

    Who lists a class need not know what its bases can do: a parser of theirs may unpickle its argument.
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
    """Refuse a method if the entry that reads like its name means what a module of the class's name holds."""
    entry = f"{module}.{name}.{method}"
    if allowed is None or entry not in allowed or {f"{module}.{name}", f"{module}.*"} & {*allowed}:
        return
    if _is_module(f"{module}.{name}", sys.modules[module]):
        raise Refusal(
            f'{module}:{name}.{method} is not in [security] allowed_classes, where "{entry}" means '
            f'{module}.{name}:{method}: add "{module}.{name}" there, then `bgctl reload`'
        )


def _is_module(name: str, parent: object) -> bool:
    """Tell whether there is a module inside a package, imported or not."""
    if name in sys.modules:
        return True
    if not hasattr(parent, "__path__"):
        return False
    from importlib.util import find_spec  # noqa: PLC0415  only a method that is listed by its name needs it

    return find_spec(name) is not None


def _check_name(found: Any, module: str, name: str) -> None:
    if "<" in str(found.__qualname__):  # a lambda, or one of the locals of a function
        raise Refusal(
            f"{module}:{name} is {found.__module__}:{found.__qualname__}, which has no name to be called by: "
            "make it a function with def, and have its decorators use functools.wraps"
        )
    if (found.__module__, found.__qualname__) != (module, name):
        raise Refusal(
            f"{module}:{name} is another name of {found.__module__}:{found.__qualname__}: allow and call that"
        )


def _check_code(function: object, module: str, name: str, home: str) -> None:
    """Refuse what is not of the module `home`, even if its __module__ was overwritten to say otherwise."""
    function = _unwrapped(function, f"{module}:{name}")
    # what is not written in Python has no globals, only a word of where it is from
    says = getattr(function, "__module__", None) or home
    says = getattr(getattr(function, "__objclass__", None), "__module__", says)  # as dict.pop has
    found = getattr(function, "__globals__", {"__name__": says}).get("__name__", home)
    if found != home:
        raise Refusal(f"{module}:{name} is defined in {found}: allow and call that")


def _unwrapped(function: object, target: str) -> object:
    """Return what is below all that decorators put around it."""
    for _ in range(_MOST_WRAPPERS):
        if "__wrapped__" not in getattr(function, "__dict__", {}):
            return function
        function = vars(function)["__wrapped__"]
    raise Refusal(f"{target} is wrapped around itself, or more than {_MOST_WRAPPERS} times")


_MOST_WRAPPERS = 100
