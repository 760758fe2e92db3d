"""Targets of class jobs, the allow-list, policies of the configuration, and keys from arguments.

Nothing is imported.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from bgd.core.job import ExceptionRules, Rate
from bgd.core.spec import MAX_NAME, OPTIONS, JobSpec


class PythonTarget(Struct, frozen=True):
    """`package.module:Class.method` (method given) or `package.module:function` (method None)."""

    module: str
    name: str  # of the class, or of the function
    method: str | None = None

    def __str__(self) -> str:
        return f"{self.module}:{self.name}" + (f".{self.method}" if self.method else "")


class RunnerTarget(Struct, frozen=True):
    """`runner::name` or `runner::name@method`, which a program of another language interprets."""

    runner: str
    name: str
    method: str | None = None

    @property
    def words(self) -> str:
        """The part that the runner gets."""
        return self.name + (f"@{self.method}" if self.method else "")

    def __str__(self) -> str:
        return f"{self.runner}{_MARK}{self.words}"


Target = PythonTarget | RunnerTarget

_MARK = "::"
_RUNNER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_BETWEEN_NAMES = re.compile(r"::|[:.\\/]")  # as in other languages
_NAME = re.compile(r"[\w$][\w$!?-]*")


@lru_cache(maxsize=1000)  # every submit and every start parses the same few
def parse_target(text: str) -> Target:
    """Read a target.

    Raises:
        ValueError: the text is not a target; the message says what one looks like.
    """
    runner, mark, words = text.partition(_MARK)
    return _runner_target(runner, words) if mark and is_runner_name(runner) else python_target(text)


def python_target(text: str) -> PythonTarget:
    """Read a target in Python; raise ValueError as in `parse_target`."""
    module, colon, path = text.partition(":")
    names = path.split(".")
    if not colon or len(names) > 2 or not all(map(_is_public_name, names)) or not is_module(module):  # noqa: PLR2004
        raise ValueError(
            f"target {text!r} must be package.module:Class.method or package.module:function, "
            f"with names that do not begin with an underscore{_with_a_colon(text)}"
        )
    return PythonTarget(module, names[0], names[1] if len(names) == 2 else None)  # noqa: PLR2004


def target_of_class(class_path: str, method: str) -> str:
    """Return the target for a method of a class.

    The class is `package.module.Class`, or `runner::Class` in another language.
    """
    if _MARK in class_path:
        return f"{class_path}@{method}"
    module, _, name = class_path.replace(":", ".").rpartition(".")  # package.module:Class is also understood
    return f"{module}:{name}.{method}"


def is_allowed(target: Target, allowed: Iterable[str]) -> bool:
    """Return whether a list such as ["app.services.ReportService", "app.tasks.*"] allows the target.

    An entry is the full dotted name of a class or function, one method of a class (`module.Class.method`), or
    `module.*` for every class and function of that module, but not of modules below it. Only the import shows
    which class defines a method: the worker then refuses an inherited one that no entry covers.

    An entry for a runner is `runner::name`, which allows all its methods, or `runner::name@method`. `*` may
    stand for the last part of the name.
    """
    patterns = patterns_for(target)
    return any(entry in patterns for entry in allowed)


def patterns_for(target: Target) -> tuple[str, ...]:
    """Return the entries that would allow the target, longest first."""
    if isinstance(target, PythonTarget):
        patterns = f"{target.module}.{target.name}", f"{target.module}.*"
        return (f"{patterns[0]}.{target.method}", *patterns) if target.method else patterns
    space = f"{target.runner}{_MARK}"
    patterns = f"{space}{target.name}", f"{space}{_above(target.name)}*"
    return (str(target), *patterns) if target.method else patterns


def problem_with_entry(entry: str) -> str | None:
    """Return what is wrong with an entry of the list of allowed classes; None: nothing."""
    if _is_python_entry(entry) or _is_runner_entry(entry):
        return None
    return (
        f"{entry!r} must be package.module.Class, package.module.Class.method, package.module.function "
        "or package.module.*, "
        f"or for a runner runner::name, runner::name@method or runner::space.*{_with_a_dot(entry)}"
    )


def is_runner_name(text: str) -> bool:
    """Return whether a text can be the name of a runner."""
    return _RUNNER.fullmatch(text) is not None


def is_dotted_name(text: str) -> bool:
    """Return whether a text can be the name of a class or exception, in Python or another language."""
    return all(_NAME.fullmatch(name) for name in _BETWEEN_NAMES.split(text))


def is_module(text: str) -> bool:
    """Return whether a text can be the name of a module, for example `package.module`."""
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in text.split("."))


def _runner_target(runner: str, words: str) -> RunnerTarget:
    name, at, method = words.partition("@")
    if not is_dotted_name(name) or name[len(_above(name))] == "_":
        problem = f"{name!r} is not a name"
    elif at and not (_NAME.fullmatch(method) and method[0] != "_"):
        problem = f"{method!r} is not a method"
    else:
        return RunnerTarget(runner, name, method if at else None)
    target = f"{runner}{_MARK}{words}"
    raise ValueError(
        f"target {target!r} must be {runner}::name or {runner}::name@method, and {problem}: "
        r"letters, digits, _ - $ ! ?, between names . / \ : or ::, and no underscore before the last"
    )


def _above(name: str) -> str:
    """Return a name without its last part: the namespace with the separator after it."""
    return name[: len(name) - len(_BETWEEN_NAMES.split(name)[-1])]


def _is_python_entry(entry: str) -> bool:
    module, dot, name = entry.rpartition(".")
    return bool(dot) and is_module(module) and (name == "*" or _is_public_name(name))


def _is_runner_entry(entry: str) -> bool:
    space = entry.removesuffix("*")
    if space != entry and not re.search(f"({_BETWEEN_NAMES.pattern})$", space):
        return False
    try:
        return isinstance(parse_target(entry if space == entry else f"{space}any"), RunnerTarget)
    except ValueError:
        return False


def _with_a_colon(text: str) -> str:
    """Return a hint if the only mistake is a dot in place of a colon."""
    if ":" in text or not is_module(text):
        return ""
    words = text.split(".")
    classes = [index for index, word in enumerate(words) if word[0].isupper()]
    split = classes[0] if classes else len(words) - 1
    if split == 0 or len(words) - split > 2:  # noqa: PLR2004
        return ""
    return f"; did you mean {'.'.join(words[:split])}:{'.'.join(words[split:])}?"


def _with_a_dot(entry: str) -> str:
    """Return a hint if an entry is written like a target."""
    try:
        target = python_target(entry)
    except ValueError:
        return ""
    return f"; did you mean {patterns_for(target)[0]}?"


def _is_public_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text) and not text.startswith("_")


# --- class policies ---------------------------------------------------------------------------------------

PAUSE_FOR = 300.0  # seconds, where pause_for does not say

POLICY_KEYS = {
    {"retry_delay": "delay"}.get(name, name): name for name, option in OPTIONS.items() if option.in_policy
}
"""The keys of `[classes."PATTERN"]` that set an option of a job, each with the option's name."""


class ClassPolicy(Struct, frozen=True):
    """Defaults for a job: options by their names in JobSpec, and rules.

    `on_exceptions` None: no pattern has rules. `pause_after`: failures after which calls pause, for
    `pause_for` seconds; `breaker`: the pattern that says so.
    """

    options: dict[str, Any] = {}
    on_exceptions: ExceptionRules | None = None
    pause_after: Rate | None = None
    pause_for: float = PAUSE_FOR
    breaker: str | None = None


NOTHING_SAID = ClassPolicy()


def class_policy(target: Target, policies: Mapping[str, ClassPolicy]) -> ClassPolicy:
    """Return the policy for a target: each key from the longest pattern that has it."""
    merged = NOTHING_SAID
    for pattern in reversed(patterns_for(target)):
        if pattern in policies:
            policy = policies[pattern]
            rules = merged.on_exceptions if policy.on_exceptions is None else policy.on_exceptions
            breaker = pattern if policy.pause_after else merged.breaker
            merged = ClassPolicy(merged.options | policy.options, rules, breaker=breaker)
    return merged


def under_policy(spec: JobSpec, policy: ClassPolicy, among: Collection[str] | None = None) -> JobSpec:
    """Return the spec with options of the policy where it has none.

    `among`: set only these options. None: all.
    """
    if policy is NOTHING_SAID:
        return spec
    return replace(
        spec,
        **{
            name: value
            for name, value in policy.options.items()
            if getattr(spec, name) is None and (among is None or name in among)
        },
    )


# --- keys from arguments ----------------------------------------------------------------------------------


class Arguments(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of a class job, each as JSON."""

    args: list[Raw] = []
    kwargs: dict[str, Raw] = {}


decode_arguments = msgspec.json.Decoder(Arguments).decode


def key_from(template: str, arguments: str | None) -> str:
    """Return a key with the arguments of a class job in place of {0} and {name}; `arguments`: JSON text.

    A text stands as it is, any other value as its JSON. {{ and }} stand for braces.

    Raises:
        ValueError: it names an argument that the job does not have, or the key is too long.
    """
    if "{" not in template and "}" not in template:
        return template
    if problem := problem_with_template(template):
        raise ValueError(problem)
    try:
        given = decode_arguments(arguments or "{}")
    except msgspec.DecodeError as error:
        raise ValueError(f"{template!r}: the arguments of the job cannot be read: {error}") from error

    def text_of(part: re.Match[str]) -> str:
        return part[0][0] if part["name"] is None else _argument(template, part["name"], given)

    key = PART.sub(text_of, template)
    if not 1 <= len(key) <= MAX_NAME or not key.isprintable():
        raise ValueError(f"{template!r}: a key is printable text of 1 to {MAX_NAME} characters on a line")
    return key


def with_key(spec: JobSpec) -> JobSpec:
    """Return the spec of a class job with its arguments in the key of its limit.

    The template itself is the key if the configuration has changed since the spec was checked: a batch is
    either refused as a whole or queued as a whole.
    """
    if spec.limit is None or spec.target is None:
        return spec
    try:
        return replace(spec, limit=(key_from(spec.limit[0], spec.arguments), spec.limit[1]))
    except ValueError:
        return spec


def problem_with_template(template: str) -> str | None:
    """Return what is wrong with a key of a class job; None: nothing."""
    if any(part[0] in "{}" for part in PART.finditer(template)):
        return f"{template!r}: write {{0}} or {{name}} for an argument, and {{{{ or }}}} for a brace"
    return None


def _argument(template: str, name: str, given: Arguments) -> str:
    is_place = name.isdecimal()
    if is_place and int(name) < len(given.args):
        value = given.args[int(name)]
    elif name in given.kwargs:
        value = given.kwargs[name]
    else:
        raise ValueError(
            f"{template!r}: the job has no argument {name} by {'position' if is_place else 'name'}"
        )
    text = bytes(value)
    return msgspec.json.decode(text, type=str) if text.startswith(b'"') else text.decode()


PART = re.compile(r"\{(?P<name>\w+)\}|\{\{|\}\}|[{}]")
"""An argument in a key of a class job, by its position or name; a brace, written twice; or a mistake."""
