"""Functions as targets: what a job function is called by the daemon, and whether a call would fit it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

_MAIN = "__main__"


def target_of(function: Callable[..., Any]) -> str:
    """Return `package.module:function` or `package.module:Class.method`, under which a worker finds it.

    Raises:
        TypeError: no worker would find it; the message says what to do.
    """
    names = _qualified_name(function)
    module = _module_of(function)
    if "<lambda>" in names:
        raise TypeError(f"a lambda of {module} has no name to be called by: make it a function with def")
    if "<locals>" in names:
        raise TypeError(f"{module}:{names} is defined inside a function: move it to the top of its module")
    if names.count(".") > 1:
        raise TypeError(f"{module}:{names} is in a class within a class: move it to the top of its module")
    if module == _MAIN:
        raise TypeError(
            f"{names} is defined in the program that runs as __main__, where no worker finds it: "
            "move it to a module, or run the program with `python -m MODULE`"
        )
    return f"{module}:{names}"


def check_call(function: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Raise TypeError if the function does not take these arguments; one that cannot say takes all.

    What a worker passes by itself, an object or its class, is not among them.
    """
    signature = _signature_of(function)
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{_qualified_name(function)}{signature}: {error}") from None


def _qualified_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str) or isinstance(function, type) or not callable(function):
        raise TypeError(f"a job is a function or a method, not {function!r}")
    return name


def _module_of(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None)
    if not isinstance(module, str):
        raise TypeError(f"{function!r} is of no module: a worker finds a function by its module")
    if module != _MAIN:
        return module
    # `python -m app.jobs` runs under another name what a worker imports as app.jobs
    spec = getattr(sys.modules[_MAIN], "__spec__", None)
    return _MAIN if spec is None else str(spec.name)


def _signature_of(function: Callable[..., Any]) -> Signature | None:
    import inspect  # noqa: PLC0415 - a worker imports this module for each job, and calls nothing in it

    try:
        signature = inspect.signature(function)
    except ValueError:  # some that are not written in Python have none
        return None
    if inspect.ismethod(function) or not _gets_an_object(function):
        return signature
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _gets_an_object(function: Callable[..., Any]) -> bool:
    """Tell whether it is a method of an object or of its class, as its class has it."""
    owner, _, name = _qualified_name(function).rpartition(".")
    kind = getattr(sys.modules.get(function.__module__), owner, None) if owner else None
    return isinstance(kind, type) and not isinstance(vars(kind).get(name), staticmethod)
