"""Reads the lines of a batch, as they come, and makes jobs of them."""

from __future__ import annotations

import os
import re
import select
import shlex
from codecs import BOM_UTF8
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from bgctl.common import WrongUsage, say
from bgctl.plain import OPERATORS
from bgd.client.portions import PORTION, PORTION_BYTES, Portion, SpecMaker
from bgd.client.programs import follow_ups_of, problem_with_follow_ups, problem_with_program
from bgd.client.specs import with_references
from bgd.core.spec import MAX_ARGV, MAX_WORD, OPTIONS, JobSpec, problem_with
from bgd.errors import BgdError, Refused
from bgd.wire.views import JobView

if TYPE_CHECKING:
    from bgd.client.options import JobOptions
    from bgd.client.specs import Caller

READ_BYTES = 256 * 1024
MAX_LINE = 64 << 20  # bytes: `bgctl list --json` is one line

SpecOfLine = Callable[[int, bytes], JobSpec | None]
"""Makes a job from a line, given its number; None: the line is blank or a comment. Raises ValueError, or a
BgdError."""


class Source:
    """The file or pipe that lines come from, each with `end` behind it.

    `size`: its bytes, None if that is not known; `read`: those read so far. `is_cut`: `stop` ended it.
    """

    def __init__(self, descriptor: int, end: bytes = b"\n") -> None:
        self._descriptor = descriptor
        self._end = end
        self._stopped, self._stop = os.pipe2(os.O_CLOEXEC)
        status = os.fstat(descriptor)
        self.size = status.st_size or None
        self.read = 0
        self.is_cut = False

    def stop(self) -> None:
        """Stop reading, even while waiting for lines."""
        os.write(self._stop, b"-")

    def groups(self) -> Iterator[list[bytes]]:
        """Yield the lines available now; an empty group before waiting for more.

        Raises:
            Refused: a line is too long.
        """
        pieces: list[bytes] = []
        while chunk := (yield from self._next_chunk()):
            first, *others = chunk.split(self._end)
            pieces.append(first)
            if others:
                yield self._without_returns([b"".join(pieces), *others[:-1]])
                pieces = [others[-1]]
            elif sum(map(len, pieces)) > MAX_LINE:
                raise Refused(f"a line has more than {MAX_LINE} bytes: give each job a line of its own")
        if any(pieces):
            yield self._without_returns([b"".join(pieces)])

    def _without_returns(self, lines: list[bytes]) -> list[bytes]:
        """Remove the carriage return from Windows line ends."""
        return [line.removesuffix(b"\r") for line in lines] if self._end == b"\n" else lines

    def _next_chunk(self) -> Generator[list[bytes], None, bytes]:
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        poller.register(self._stopped, select.POLLIN)
        ready = poller.poll(0)
        if not ready:
            yield []
            ready = poller.poll()
        if any(descriptor == self._stopped for descriptor, _ in ready):
            self.is_cut = True
            return b""
        try:
            chunk = os.read(self._descriptor, READ_BYTES)
        except OSError as error:
            raise Refused(f"cannot read the lines: {error.strerror}") from error
        self.read += len(chunk)
        return chunk


def portions_of_lines(
    groups: Iterable[list[bytes]],
    maker: SpecMaker,
    spec_of: SpecOfLine,
    place_of: Callable[[int, JobSpec], int | None],
    skipped: int,
) -> Iterator[Portion | None]:
    """Make jobs from lines; a portion for each group, or several for a large one; None for an empty one.

    Args:
        groups: the lines.
        maker: what `spec_of` makes specs with.
        spec_of: makes a spec of a line.
        place_of: returns the number that a line has in its batch, or refuses it; None: pass over it.
        skipped: how many lines at the beginning are left out.

    Raises:
        Refused: a line cannot be a job; the message names it. The lines before it were yielded.
    """
    number = 0
    for group in groups:
        specs, lines, size = list[JobSpec](), list[int](), 0
        for line in group:
            if (number := number + 1) <= skipped:
                continue
            try:
                if (spec := spec_of(number, line)) is None or (place := place_of(number, spec)) is None:
                    continue
            except (ValueError, TypeError, BgdError) as error:
                if specs:
                    yield Portion(specs, maker.env, lines)
                raise _named(error, number) from error
            specs.append(spec)
            lines.append(place)
            size += len(line)
            if len(specs) >= PORTION or size > PORTION_BYTES:
                yield Portion(specs, maker.env, lines)
                specs, lines, size = [], [], 0
        if specs or not group:
            yield Portion(specs, maker.env, lines) if specs else None


def _named(error: Exception, number: int) -> BgdError:
    kind = type(error) if isinstance(error, BgdError) else Refused
    return kind(f"line {number}: {error}")


def documents(groups: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
    """Replace each line that holds a JSON array by its items, as if each were a line."""
    for group in groups:
        yield [item for line in group for item in (_items(line) if line.lstrip()[:1] == b"[" else [line])]


def _items(line: bytes) -> list[bytes]:
    try:
        return [bytes(item) for item in msgspec.json.decode(line, type=list[msgspec.Raw])]
    except (msgspec.MsgspecError, RecursionError):
        return [line]  # which is then refused with its number


# --- what a line says ---------------------------------------------------------------------------------------


def program_check(options: JobOptions, caller: Caller, folder: str) -> Callable[[JobSpec], None]:
    """Return a function that refuses commands whose programs are missing; each program is looked for once.

    Documents with their own folder or variables are not checked: there it may be another program.

    Raises:
        Refused: the program of a command that the options let follow each job is missing.
    """
    own = caller.chosen_environment(options.get("env_pass") or "all")
    path = (options.get("env") or {}).get("PATH", own.get("PATH"))
    found: set[str] = set()
    if problem := problem_with_follow_ups(follow_ups_of(options), path, folder):
        raise Refused(f"{problem}; --no-check queues the batch anyway")

    def check(spec: JobSpec) -> None:
        if spec.argv is None or spec.env is not None or spec.cwd != folder or spec.argv[0] in found:
            return
        if problem := problem_with_program(spec.argv[0], path, folder):
            raise Refused(f"{problem}; --no-check queues it anyway")
        found.add(spec.argv[0])

    return check


def words_of(line: str) -> list[str]:
    """Split a line into words like a shell, without expansions.

    Raises:
        ValueError: a quote is not closed.
    """
    if not _NEEDS_SHLEX(line):
        return line.split()
    try:
        return shlex.split(line)
    except ValueError:
        raise ValueError("a quote is not closed, or a backslash ends the line") from None


_NEEDS_SHLEX = re.compile(r"""["'\\]|[^\S \t\r]""").search


def word_lines(maker: SpecMaker) -> SpecOfLine:
    """Take each line as a command, in words as a shell splits them; one that begins with # is a comment."""
    operators = set(OPERATORS)  # none, once one was found

    def spec_of(number: int, line: bytes) -> JobSpec | None:
        words = words_of(_text(line))
        if not words or words[0].startswith("#"):
            return None
        if not operators.isdisjoint(words) and (
            found := next(filter(operators.__contains__, words[1:]), None)
        ):
            operators.clear()
            say(f"line {number}: {found!r} is an argument here: with --shell, a shell runs each line")
        return _checked(maker.of_words(words), len(line))

    return spec_of


def shell_lines(maker: SpecMaker) -> SpecOfLine:
    """Let /bin/sh run each line; one that begins with # is a comment."""

    def spec_of(_: int, line: bytes) -> JobSpec | None:
        text = _text(line)
        if not text.strip() or text.lstrip().startswith("#"):
            return None
        return _checked(maker.of_words([*_SHELL, text]), len(line))

    return spec_of


def template_words(template: str, *, shell: bool) -> list[str]:
    """Return the words of a template.

    Raises:
        WrongUsage: the template is not a command.
    """
    try:
        words = [template] if shell else words_of(template)
    except ValueError as error:
        raise WrongUsage(f"--template: {error}") from error
    if not (words and words[0].strip()):
        raise WrongUsage("--template takes a command, such as 'convert {} {.}.png'")
    return [*_SHELL, *words] if shell else words


def argument_lines(
    maker: SpecMaker, command: Sequence[str], *, shell: bool, takes_empty: bool = False
) -> SpecOfLine:
    """Put each line, an argument, in the place of the {} of a command, or behind it.

    Args:
        maker: of the specs.
        command: its words.
        shell: the last word is a text for a shell, which gets the values as its parameters.
        takes_empty: an empty line is an argument, too.

    Raises:
        WrongUsage: a {} of the text is within quotes, or there is no place for one.
    """
    fixed, words = list[str](), list(command)
    if shell:
        text, words = _with_parameters(words[-1])
        if not words:
            text, words = _with_parameters(f"{text} {{}}")
            if not words:
                raise WrongUsage("the text for the shell ends with a comment: write {} before it")
        fixed = [*_SHELL, text, "sh"]
    elif not any(map(_PLACE.search, words)):
        words.append("{}")

    def spec_of(number: int, line: bytes) -> JobSpec | None:
        argument = _text(line)
        if not (argument or takes_empty):
            return None
        values = [_PLACE.sub(lambda match: _part_of(argument, match[1], number), word) for word in words]
        argv = [*fixed, *values]
        return _checked(maker.of_words(argv), sum(map(len, argv)))

    return spec_of


def _with_parameters(text: str) -> tuple[str, list[str]]:
    """Replace each {} of a text for a shell by a parameter; return it with what the parameters are.

    No shell reads a parameter as text, even if a quote is missed here.

    Raises:
        WrongUsage: one is within quotes: there it would be text, or a second shell would read it.
    """
    pieces, places, ends = list[str](), list[str](), [""]  # of quotes and substitutions, the innermost last
    position = 0
    while match := (_QUOTED if ends[-1] in _QUOTES else _UNQUOTED).search(text, position):
        token = match[0]
        if match["place"]:
            if ends[-1] in _QUOTES:
                raise _within_quotes(token)
            if token not in places:
                places.append(token)
            token = f'"${places.index(token) + 1}"'
        elif token[0] == "'" and (place := _PLACE.search(token)):
            raise _within_quotes(place[0])
        elif token == ends[-1]:
            ends.pop()
        elif token in _ENDS:
            ends.append(_ENDS[token])
        pieces += text[position : match.start()], token
        position = match.end()
    return "".join([*pieces, text[position:]]), places


def _within_quotes(place: str) -> WrongUsage:
    return WrongUsage(
        f"{place} is quoted already, and cannot stand within quotes or $(( )): end them before it, as in"
        f""" 'echo "to "{place}" now"'; a second shell takes it as 'sh -c "echo \\$1" sh {place}'"""
    )


_SHELL = ("/bin/sh", "-c")
_ENDS = {'"': '"', "$((": "))", "$(": ")", "(": ")", "`": "`"}
_QUOTES = {'"', "))"}
_PLACE = re.compile(r"\{(#|//|/\.|/|\.|)\}")
_OF_BOTH = rf"""\\.|\$\{{#\}}|(?P<place>{_PLACE.pattern})|\$\(\(|\$\(|["`]"""
_QUOTED = re.compile(rf"{_OF_BOTH}|\)\)", re.DOTALL)
_UNQUOTED = re.compile(rf"{_OF_BOTH}|'[^']*'|[()]|(?<![^\s;&|(])\#[^\n]*", re.DOTALL)
_EXTENSION = re.compile(r"\.[^/.]*\Z")


def _part_of(argument: str, what: str, number: int) -> str:
    """Return GNU parallel's replacement of {what}."""
    match what:
        case "#":
            return str(number)
        case "//":
            return os.path.dirname(argument) or "."  # noqa: PTH120 - as text
        case "." | "":
            return _EXTENSION.sub("", argument) if what else argument
        case _:
            name = argument.rpartition("/")[2]
            return _EXTENSION.sub("", name) if what == "/." else name


def document_lines(maker: SpecMaker, *, takes_limit: bool = True) -> SpecOfLine:
    """Take each line as a JSON object with the options of a job; what only the daemon sets is ignored.

    `takes_limit`: it may have a limit.
    """

    def spec_of(_: int, line: bytes) -> JobSpec | None:
        if not line.strip():
            return None
        try:
            item = msgspec.json.decode(line.removeprefix(BOM_UTF8))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(f"it is not one JSON document: {error}") from error
        if not isinstance(item, dict):
            raise Refused('it is not a JSON object such as {"argv": ["true"], "priority": 5}')
        given = {key: value for key, value in item.items() if value is not None and key not in READ_ONLY}
        if "argv" not in given and "target" not in given:
            raise ValueError("it has neither argv (a command) nor target (a class job)")
        if not takes_limit and not given.keys().isdisjoint(_OF_LIMIT):
            raise Refused("it has a limit or on_limit, and -j is a limit, too: leave out one of them")
        # a document of `list` names in `after` the jobs that it refers to; any other {"$result": ID} was data
        among = item.get("after") or () if "id" in item else None
        for name in {"args", "kwargs"} & given.keys():
            given[name] = with_references(given[name], among)
        return maker.of_item({**given, "check": False})  # as `bgctl call`

    return spec_of


READ_ONLY = frozenset(JobView.__struct_fields__) - OPTIONS.keys() - {"argv", "target", "args", "kwargs"}
"""Keys that `list` and `show` print but no submit takes."""


_OF_LIMIT = {"limit", "on_limit"}


def _text(line: bytes) -> str:
    try:
        text = line.decode("utf-8-sig")  # without the mark that some editors write first
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # as UTF-16 has
        raise ValueError("it is not UTF-8 text without NUL: if it is UTF-16, `iconv -f UTF-16` converts it")
    return text


def _checked(spec: JobSpec, size: int) -> JobSpec:
    """Return a command; check one that may be over a limit."""
    argv: Any = spec.argv
    if not argv[0]:
        raise ValueError("the name of the program is empty")
    if len(argv) > MAX_ARGV:
        raise ValueError(f"{len(argv)} words are too many: at most {MAX_ARGV}")
    if size * 4 > MAX_WORD and (problem := problem_with(spec)):
        raise ValueError(problem)
    return spec
