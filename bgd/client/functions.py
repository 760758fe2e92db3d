"""Functions as targets: their names for a worker, and checks of calls."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import Signature, ismethod, signature
from reprlib import Repr
from types import FunctionType
from typing import Any

from bgd.core.spec import OPTIONS
from bgd.core.target import PART, PythonTarget, parse_target
from bgd.errors import Refused

_MAIN = "__main__"


def check_target(target: str, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Refuse a call that would fail, if this process has imported the module.

    Raises:
        Refused: the module has no such function, or the class no such method.
        TypeError: the arguments do not fit.
    """
    try:
        wanted = parse_target(target)
    except ValueError:
        return  # the daemon says what is wrong
    if not isinstance(wanted, PythonTarget) or (module := sys.modules.get(wanted.module)) is None:
        return
    found = _attribute_of(module, wanted.name, f"module {wanted.module}")
    if isinstance(found, type) and wanted.method is not None:
        found = _attribute_of(found, wanted.method, f"{wanted.module}:{wanted.name}")
    if callable(found) and not isinstance(found, type) and hasattr(found, "__qualname__"):
        check_call(found, args, kwargs)


def _attribute_of(owner: object, name: str, words: str) -> object:
    try:
        return getattr(owner, name)
    except AttributeError:
        from difflib import get_close_matches  # noqa: PLC0415 - needed only to word an error

        alike = get_close_matches(name, [each for each in dir(owner) if not each.startswith("_")], n=1)
        hint = f"did you mean {alike[0]}?" if alike else "does the worker have another version of it?"
        raise Refused(f"{words} has no {name!r} here: {hint} check=False queues it anyway") from None


def target_of(function: Callable[..., Any]) -> str:
    """Return the target of a function for a worker: `package.module:function` or `:Class.method`.

    Raises:
        TypeError: no worker would find it. The message says what to do.
    """
    names = _qualified_name(function)
    module = _module_of(function)
    if "<lambda>" in names:
        raise TypeError(f"a lambda of {module} has no name to be called by: make it a function with def")
    if "<locals>" in names:
        raise TypeError(f"{module}:{names} is defined inside a function: move it to the top of its module")
    if names.count(".") > 1:
        raise TypeError(f"{module}:{names} is in a class within a class: move it to the top of its module")
    if any(name.startswith("_") for name in names.split(".")):
        raise TypeError(f"{module}:{names} is private, and no worker calls it: remove the first underscore")
    if module == _MAIN:
        raise TypeError(
            f"{names} is defined in the program that runs as __main__, where no worker finds it: "
            "move it to a module, or run the program with `python -m MODULE`"
        )
    return f"{module}:{names}"


def check_call(function: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Raise TypeError if the function does not take these arguments; one without a signature takes all.

    The arguments are without the object or class that a worker passes to a method.
    """
    taken = _signature_of(function)
    if taken is None:
        return
    try:
        taken.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{_qualified_name(function)}{taken}: {error}") from None


def other_call(client: str, what: Any, args: Sequence[object], kwargs: Mapping[str, object]) -> TypeError:
    """Return the error for a function or a program that is given to a client as other libraries take it.

    The message has what to write. `client`: the words that the call begins with.
    """
    if not callable(what) and (not isinstance(what, str) or ":" not in what):
        argv = [*what, *args] if isinstance(what, list | tuple) else [what, *args]
        return TypeError(f"a command is a list: write {in_words(f'{client}.submit', [argv], kwargs)}")
    options = {name: value for name, value in kwargs.items() if name in OPTIONS}
    named = {name: value for name, value in kwargs.items() if name not in OPTIONS}
    given = [what if isinstance(what, str) else target_of(what), list(args), *([named] if named else [])]
    return TypeError(f"a function is called by its name: write {in_words(f'{client}.call', given, options)}")


def other_method(client: str, name: str) -> Callable[..., Any]:
    """Return a stand-in for a method that other libraries have: it raises `other_call`.

    Raises:
        AttributeError: no known library has a method of this name.
    """
    if name in {"group", "chord"}:  # of Celery
        raise AttributeError(f"jobs that belong together are a batch: write {client}.batch(calls, then=...)")
    if name not in {"delay", "enqueue"}:  # of RQ and others
        raise AttributeError(f"a client has no attribute {name!r}", name=name)

    def refuse(what: Any, *args: object, **kwargs: object) -> None:
        raise AttributeError(str(other_call(client, what, args, kwargs)))

    return refuse


def in_words(call: str, args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """Return a call as one writes it, with "..." in place of what is long."""
    words = [*map(_short.repr, args), *(f"{name}={_short.repr(value)}" for name, value in kwargs.items())]
    return f"{call}({', '.join(words)})"


_short = Repr()
_short.maxstring = _short.maxother = 100


def as_bound(
    function: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return arguments in a normal form for equal calls; unchanged if they do not fit."""
    taken = _signature_of(function)
    try:
        bound = None if taken is None else taken.bind(*args, **kwargs)
    except TypeError:
        bound = None
    if bound is None:
        return tuple(args), dict(kwargs)
    bound.apply_defaults()
    return bound.args, bound.kwargs


def key_as_passed(
    function: Callable[..., Any], template: str, args: Sequence[object], kwargs: Mapping[str, object]
) -> str:
    """Rewrite {name} and {0} in a key as the call passes them: by name, position or default."""
    taken = _signature_of(function)
    parameters = [] if taken is None else list(taken.parameters.values())
    named = {each.name: number for number, each in enumerate(parameters)}

    def argument(match: re.Match[str]) -> str:
        if (word := match["name"]) is None:
            return match[0]
        number = int(word) if word.isdecimal() else named.get(word, len(parameters))
        if number < len(args):
            return f"{{{number}}}"
        each = parameters[number] if number < len(parameters) else None
        if each is None or (each.name not in kwargs and each.default is each.empty):
            return match[0]
        return f"{{{each.name}}}" if each.name in kwargs else _in_key(each.default)

    return PART.sub(argument, template)


def _in_key(value: object) -> str:
    """Return a value in a key as text where it is not an argument: as `key_from` would put it there."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except TypeError:
        text = str(value)
    return text.replace("{", "{{").replace("}", "}}")


def _qualified_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str) or isinstance(function, type) or not callable(function):
        raise TypeError(f"a job is a function or a method, not {function!r}")
    return name


def _module_of(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None)
    if not isinstance(module, str):
        raise TypeError(f"{function!r} has no module, by which a worker could find it")
    if module != _MAIN:
        return module
    # a program that runs by `python -m app.jobs` is __main__ here, and app.jobs in a worker
    spec = getattr(sys.modules[_MAIN], "__spec__", None)
    return _MAIN if spec is None else str(spec.name)


def _signature_of(function: Callable[..., Any]) -> Signature | None:
    # reading a signature takes longer than the rest of a submit; other callables may be made for one call
    return _known_signature(function) if isinstance(function, FunctionType) else _read_signature(function)


def _read_signature(function: Callable[..., Any]) -> Signature | None:
    try:
        found = signature(function)
    except ValueError:  # some functions that are not written in Python have none
        return None
    if ismethod(function) or not _takes_object(function):
        return found
    return found.replace(parameters=list(found.parameters.values())[1:])


_known_signature = lru_cache(maxsize=200)(_read_signature)


def _takes_object(function: Callable[..., Any]) -> bool:
    """Return whether it is a method, whose first argument is an object or a class."""
    owner, _, name = _qualified_name(function).rpartition(".")
    kind = getattr(sys.modules.get(function.__module__), owner, None) if owner else None
    return isinstance(kind, type) and not isinstance(vars(kind).get(name), staticmethod)
