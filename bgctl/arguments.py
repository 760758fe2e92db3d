"""Convert the arguments of `call` by the annotations of the function.

The source of the function is parsed, never run: it may be that of another interpreter.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from bgctl.common import WrongUsage, say
from bgd import BgdError, Client
from bgd.core.target import PythonTarget, parse_target
from bgd.errors import nearest
from bgd.settings import config

Function = ast.FunctionDef | ast.AsyncFunctionDef
Annotation = ast.expr | None


def read_arguments(
    daemon: Client,
    target: str,
    words: Sequence[str],
    positional: Sequence[object] = (),
    named: Mapping[str, object] | None = None,
) -> tuple[list[object], dict[str, object]]:
    """Return the positional and named arguments in the words of a command line, after those given here.

    A word for a parameter without annotation stays text. If it looks like a number, a message says so.

    Raises:
        WrongUsage: a word is not of the type that the annotation asks for, an argument is missing, unknown or
            given twice, or there is no such function.
    """
    signature = _signature(daemon, target)
    parameters = [] if signature is None else list(signature.parameters.values())
    in_order = [each for each in parameters if each.kind in _IN_ORDER]
    by_name = {each.name: each for each in parameters if each.kind in _BY_NAME}
    rest = next((each.annotation for each in parameters if each.kind is Parameter.VAR_POSITIONAL), None)
    positional, named = list(positional), dict(named or {})
    unsure: list[str] = []  # texts that may be meant as another type
    for word in words:
        name, equals, text = word.partition("=")
        if equals and name in by_name:
            if name in named:
                raise WrongUsage(f"{name} is given twice")
            kinds = _kinds(by_name[name].annotation)
            named[name] = _read(text, kinds, f"argument {name} of {target}")
        else:
            at, text = len(positional), word
            kinds = _kinds(in_order[at].annotation if at < len(in_order) else rest)
            positional.append(_read(word, kinds, f"argument {at + 1} of {target}"))
        if not kinds and (_NUMBER.fullmatch(text) or (signature is None and equals and name.isidentifier())):
            unsure.append(word)
    if signature is not None:
        try:
            signature.bind(*positional, **named)
        except TypeError as error:
            raise WrongUsage(f"{target}({', '.join(signature.parameters)}): {error}") from None
    if unsure:
        why = f"the source of {target} was not found here" if signature is None else "it has no annotation"
        say(f"{unsure[0]!r} is passed as text, because {why}; --args and --kwargs pass other types")
    return positional, named


_IN_ORDER = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


# --- values -------------------------------------------------------------------------------------------------


def _read(text: str, kinds: list[str], what: str) -> object:
    """Convert the text to the first of the types that accepts it; without types, return it unchanged."""
    if not kinds:
        return text
    possible = [_TYPES[kind] for kind in _TYPES if kind in kinds]
    for read, _ in possible:
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    raise WrongUsage(f"{what} must be {' or '.join(name for _, name in possible)}, not {text!r}")


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _word(text: str, values: Mapping[str, bool | None]) -> bool | None:
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


def _document(text: str, kind: type) -> object:
    value = json.loads(text)
    if not isinstance(value, kind):
        raise ValueError(text)  # noqa: TRY004 - what the other readers raise
    return value


_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,300}([.][0-9]*)?|[.][0-9]+)(e[+-]?[0-9]{1,2})?", re.IGNORECASE)
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# By its type, how a word is read and what it is called; of several types that a word fits it has the first
_TYPES: dict[str, tuple[Callable[[str], object], str]] = {
    "None": (lambda text: _word(text, {"none": None, "null": None}), "None"),
    "int": (_integer, "a whole number"),
    "float": (_number, "a number"),
    "bool": (lambda text: _word(text, _TRUTH), "true or false"),
    "list": (lambda text: _document(text, list), "a JSON array"),
    "dict": (lambda text: _document(text, dict), "a JSON object"),
    "str": (str, "text"),
}


# --- annotations --------------------------------------------------------------------------------------------


def _kinds(annotation: Annotation) -> list[str]:
    """Return the names of the types that an annotation allows; none if it is missing or not understood."""
    match annotation:
        case ast.Constant(value=None):
            return ["None"]
        case ast.Constant(value=str(text)):
            return _kinds(_parsed(text))
        case ast.Name(id=name) | ast.Attribute(attr=name):
            kind = _SAME.get(name, name)
            return [kind] if kind in _TYPES else []
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _all_kinds([left, right])
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            return _kinds_within(name, inner.elts if isinstance(inner, ast.Tuple) else [inner])
        case _:
            return []


def _kinds_within(name: str, inner: list[ast.expr]) -> list[str]:
    """Return the types of `name[inner]`, for example Optional[int] or list[str]."""
    if name == "Optional":
        return _all_kinds([ast.Constant(None), *inner])
    if name == "Union":
        return _all_kinds(inner)
    return _kinds(inner[0] if name == "Annotated" and inner else ast.Name(name))


def _parsed(text: str) -> Annotation:
    """Parse an annotation that is written as text; return None if it cannot be parsed."""
    try:
        return ast.parse(text, mode="eval").body
    except _UNREADABLE:
        return None


def _all_kinds(parts: list[ast.expr]) -> list[str]:
    """Return the types of a union; none if one of them is not understood."""
    found = [_kinds(part) for part in parts]
    return list(chain(*found)) if all(found) else []


_SAME = {"List": "list", "Sequence": "list", "Dict": "dict", "Mapping": "dict"}
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)  # what ast.parse raises


# --- finding the function -----------------------------------------------------------------------------------


def _signature(daemon: Client, target: str) -> Signature | None:
    """Return the signature of a target, with its annotations as parsed; None if it cannot be read here.

    Raises:
        WrongUsage: its module is read, and surely has no such function.
    """
    try:
        wanted = parse_target(target)
        if not isinstance(wanted, PythonTarget):
            return None
        source = _source(wanted.module, config.load(daemon.info().config).python)
        module = None if source is None else ast.parse(source)
    except (BgdError, OSError, *_UNREADABLE):
        return None  # the daemon says what is wrong with the target
    owner = _defined(module, wanted.name)
    function = owner if wanted.method is None else _defined(owner, wanted.method)
    if source is not None and not _MAY_DEFINE_ANYTHING.search(source):
        _check_is_named(target, wanted.name, module, source)
        if (
            wanted.method is not None
            and isinstance(owner, ast.ClassDef)
            and not (owner.bases or owner.keywords or owner.decorator_list)
        ):
            _check_is_named(target, wanted.method, owner, source)
    if not isinstance(function, Function) or isinstance(owner, Function) != (wanted.method is None):
        return None
    of_class = wanted.method is not None and not any(
        isinstance(each, ast.Name) and each.id == "staticmethod" for each in function.decorator_list
    )
    decorators = {ast.unparse(each).partition("(")[0] for each in function.decorator_list}
    return _signature_of(function.args, int(of_class), is_exact=decorators <= _SAME_ARGUMENTS)


_SAME_ARGUMENTS = {"staticmethod", "classmethod", "job", "bgd.job"}  # decorators
_MAY_DEFINE_ANYTHING = re.compile(rb"import\s*\*|__getattr__|__dict__|globals|locals|vars|setattr|exec")


def _check_is_named(target: str, name: str, owner: ast.AST | None, source: bytes) -> None:
    """Refuse the name of a function or class of a module or class that stands nowhere in the source."""
    if not re.search(rf"\b{re.escape(name)}\b", source.decode(errors="replace")):
        names = [
            each.name for each in getattr(owner, "body", []) if isinstance(each, Function | ast.ClassDef)
        ]
        kind = "class" if isinstance(owner, ast.ClassDef) else "module"
        raise WrongUsage(f"{target}: its {kind} defines no {name} ({nearest(name, names)})")


def _signature_of(taken: ast.arguments, skipped: int, *, is_exact: bool) -> Signature:
    """Return the signature of parameters; unless `is_exact`, it takes all arguments."""

    def parameter(each: ast.arg, kind: Any, default: ast.expr | None) -> Parameter:
        value = Parameter.empty if default is None and is_exact else default
        return Parameter(each.arg, kind, default=value, annotation=each.annotation)

    both = [*taken.posonlyargs, *taken.args]
    defaults = [None] * (len(both) - len(taken.defaults)) + taken.defaults
    kinds = [_IN_ORDER[at >= len(taken.posonlyargs)] for at in range(len(both))]
    parameters = [*map(parameter, both, kinds, defaults)][skipped:]
    if rest := taken.vararg or (None if is_exact else ast.arg("args_")):
        parameters.append(Parameter(rest.arg, Parameter.VAR_POSITIONAL, annotation=rest.annotation))
    parameters += map(parameter, taken.kwonlyargs, repeat(Parameter.KEYWORD_ONLY), taken.kw_defaults)
    if rest := taken.kwarg or (None if is_exact else ast.arg("kwargs_")):
        parameters.append(Parameter(rest.arg, Parameter.VAR_KEYWORD))
    return Signature(parameters)


def _defined(owner: ast.AST | None, name: str) -> ast.AST | None:
    """Return the last function or class of this name in a module or class; None if there is none."""
    found = [
        each
        for each in getattr(owner, "body", [])
        if isinstance(each, Function | ast.ClassDef) and each.name == name
    ]
    return found[-1] if found else None


def _source(module: str, python: config.PythonConfig) -> bytes | None:
    """Return the source of a module that class jobs import; None if there is none."""
    names = module.replace(".", "/")
    for folder in _import_path(python):
        for path in (folder / names / "__init__.py", folder / f"{names}.py"):
            if path.is_file() and path.stat().st_size <= _MAX_SOURCE:
                return path.read_bytes()
    return None


def _import_path(python: config.PythonConfig) -> Iterator[Path]:
    """Yield [python] path, then the packages of the interpreter with the folders that they add."""
    yield from map(Path, python.path)
    for packages in sorted(Path(python.interpreter).parent.parent.glob("lib/python3*/site-packages")):
        yield packages
        for added in sorted(packages.glob("*.pth")):
            lines = added.read_text(errors="replace").splitlines()
            yield from (packages / line for line in lines if line and not line.startswith(("#", "import")))


_MAX_SOURCE = 2_000_000  # bytes; parsing more takes seconds
