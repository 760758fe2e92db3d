r"""Crontabs: converts the jobs of Debian's cron to schedules, with a note about every difference.

Nothing here reads a file, looks up a user or changes a crontab: the caller describes the machine.

What Debian's cron does (3.0pl1-197):

* `#` starts a comment only where a line begins. `NAME = value` holds for the lines below it. The value is not
  expanded; quotes around it and blanks at its end are removed.
* A command runs as `SHELL -c COMMAND` in HOME, with SHELL=/bin/sh and PATH=/usr/bin:/bin unless the crontab
  says otherwise. LOGNAME is always the user. The zone is the machine's, whatever TZ or CRON_TZ say. Where PAM
  has variables for every session, a command gets those that the crontab does not set.
* A relative HOME starts at /var/spool/cron. If HOME is not a folder, the command runs in /var/spool/cron.
* The first `%` ends the command. What follows is its standard input, in which further ones are newlines.
  `\%` is a `%`, and before the first `%` a double backslash is a single one.
* One line that it cannot read makes it ignore the whole file, and so does a last line without a newline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath

from msgspec import Struct

from bgd.core.cron import ExpressionError
from bgd.core.when import Kind, parse_when
from bgd.errors import shorten
from bgd.text.escape import one_line

MAX_CRONTAB = 1 << 20  # characters; a larger file is something else
MAX_LINES = 10_000
MAX_COMMAND = 998  # characters, as in Debian's cron
SPOOL = "/var/spool/cron"
PAM_FILES = ("/etc/environment", "/etc/default/locale")  # as Debian's /etc/pam.d/cron names them
_DEFAULTS = {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
_MAX_NAME = 50


class Definition(Struct, frozen=True, kw_only=True):
    """A schedule that does what a line of a crontab does, in the machine's time zone.

    `overlap` is what cron does; `mail_to` gets the mail from cron, "" means no mail.
    """

    line: int
    name: str
    cron: str
    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    input: bytes | None = None
    mail_to: str
    overlap: str = "allow"


class Note(Struct, frozen=True):
    """A difference from cron, and the reason; `line` 0 means the whole file.

    `is_left_out`: the line has no definition.
    """

    line: int
    text: str
    is_left_out: bool = False

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


class Machine(Struct, frozen=True, kw_only=True):
    """The machine of a crontab.

    Attributes:
        user: the user whose jobs to import.
        home: the user's home.
        has_users: cron expects a user before each command of the file. Otherwise a line has one if it begins
            with a user's name.
        is_user: whether a word is the name of a user, and no program in these folders (a PATH).
        is_folder: whether there is a folder of this path.
        pam: the variables that PAM gives every session.
    """

    user: str
    home: str
    has_users: bool
    is_user: Callable[[str, str], bool]
    is_folder: Callable[[str], bool]
    pam: Mapping[str, str] = {}


def has_user_column(path: PurePath) -> bool:
    """Return whether cron expects a user before each command of a file."""
    return path == PurePath("/etc/crontab") or path.parent == PurePath("/etc/cron.d")


def pam_variables(text: str) -> dict[str, str]:
    """Return the variables of a file such as /etc/environment, as pam_env reads them.

    `#` begins a comment anywhere. A quote is removed where a value begins, and then one at its very end.
    """
    variables = {}
    for line in text.splitlines():
        name, equals, value = line.partition("#")[0].lstrip().removeprefix("export ").partition("=")
        if equals and name.replace("_", "a").isalnum():
            variables[name] = re.sub(r"^[\"'](.*?)[\"']?$", r"\1", value)
    return variables


def parse_crontab(text: str, machine: Machine) -> Crontab:
    """Read the crontab of a user, or one whose lines name their users.

    Every line that is not empty and not a comment becomes a definition, is a variable, or gets a note.

    Raises:
        ValueError: the text is too long to be a crontab.
    """
    lines = text.split("\n")
    if len(text) > MAX_CRONTAB or len(lines) > MAX_LINES:
        raise ValueError(
            f"this is not a crontab: it has {len(lines)} lines and {len(text)} characters, "
            f"and at most {MAX_LINES} and {MAX_CRONTAB} are read"
        )
    crontab = Crontab(machine)
    for number, line in enumerate(lines, 1):
        crontab.read(number, line.removesuffix("\r"))
    crontab.note_mail()
    crontab.note_pam()
    crontab.notes += _notes_on_file(lines)
    crontab.notes.sort(key=lambda note: note.line)
    return crontab


def _notes_on_file(lines: list[str]) -> Iterator[Note]:
    if lines[-1]:
        yield Note(
            len(lines),
            "there is no newline at the end, so Debian's cron ignores the whole file; bgd reads it",
        )
    if any(line.endswith("\r") for line in lines):
        yield Note(0, "lines have Windows line ends, which cron passes to the commands; bgd removes them")


class Crontab:
    """The definitions and notes of a crontab, read line after line: variables hold for those below."""

    def __init__(self, machine: Machine) -> None:
        self.definitions: list[Definition] = []
        self.notes: list[Note] = []
        self._machine = machine
        self._user = machine.user
        self._env = {**_DEFAULTS, "LOGNAME": machine.user}
        self._set(0, "HOME", machine.home)
        self._names: set[str] = set()
        self._names_users = False

    def read(self, number: int, line: str) -> None:
        """Read a line without the newline at its end."""
        line = line.lstrip(" \t")
        if not line or line.startswith("#"):
            return
        try:
            if variable := _variable(line):
                self._set(number, *variable)
            else:
                self._add(number, line)
        except ExpressionError as error:
            self._leave_out(number, str(error))

    def note_mail(self) -> None:
        """Explain what happens to the mail that cron sends to the user, if any."""
        if any(each.mail_to == self._user for each in self.definitions):
            self._note(
                0,
                f"cron mails what commands print to {self._user}; bgd keeps it: `bgctl logs NAME`",
            )

    def note_pam(self) -> None:
        """Name the variables that PAM would give the commands, which the definitions have from now on."""
        set_by_pam = {
            f"{name}={value}"
            for name, value in self._machine.pam.items()
            if any(each.env[name] == value for each in self.definitions)
        }
        if set_by_pam:
            self._note(
                0,
                f"cron gives commands {', '.join(sorted(set_by_pam))} from {' and '.join(PAM_FILES)}: "
                "the schedules keep these values",
            )

    def _note(self, number: int, text: str) -> None:
        self.notes.append(Note(number, shorten(one_line(text))))

    def _leave_out(self, number: int, why: str) -> None:
        self.notes.append(Note(number, shorten(one_line(f"not imported: {why}")), is_left_out=True))

    def _set(self, number: int, name: str, value: str) -> None:
        """Set a variable for the lines below."""
        if name == "LOGNAME":
            self._note(number, f"LOGNAME={value} has no effect: it stays {self._user}, as in cron")
            return
        self._env[name] = value
        if name == "HOME":
            # where the machine has no cron, the commands run in /
            folders = (str(PurePath(SPOOL, value)), SPOOL)
            self._cwd = next((each for each in folders if self._machine.is_folder(each)), "/")
            if self._cwd != value:
                self._note(
                    number, f"HOME={value} is not the absolute path of a folder: commands run in {self._cwd}"
                )
        if name in _WITHOUT_EFFECT:
            self._note(
                number,
                f"{name}={value} only goes into the environment, as in Debian's cron; cronie uses it:"
                f" for that, add {_WITHOUT_EFFECT[name].format(value)} to each schedule from a line below",
            )
        if name == "MAILTO" and value:
            self._note(
                number,
                f"MAILTO={value}: bgd keeps what commands print (`bgctl logs NAME`), and mails failures "
                "if [notify.NAME] says so",
            )

    def _add(self, number: int, line: str) -> None:
        when, rest = _split_when(line)
        parse_when(when, Kind.CRON, key="")
        word, after = _first_word(rest)
        if rest.startswith("*") or re.fullmatch(r"[0-9*/,-]+", word):
            parse_when(f"{when} {word}", Kind.CRON, key="")  # one field too many
        if self._machine.has_users or self._machine.is_user(word, self._env["PATH"]):
            self._names_users, rest = True, after
            if word != self._user:
                self._leave_out(number, f"it runs as {word or 'no user'}; import it as that user")
                return
        elif self._names_users:
            self._note(number, f"it does not begin with a user as lines above do: {word!r} is its program")
        if not rest.strip():
            raise ExpressionError(
                "there is no command, so cron would run an empty one: add it after the time"
            )
        if len(rest) > MAX_COMMAND:
            raise ExpressionError(
                f"the command has {len(rest)} characters, and Debian's cron takes {MAX_COMMAND}: "
                "put it into a script"
            )
        if "~" in when:
            self._note(
                number,
                f"{when!r}: the random value stays the same for this machine and schedule; "
                "Debian's cron reads A~B as A, and cronie chooses again at each start",
            )
        self._define(number, when, *_split_input(rest))

    def _define(self, number: int, when: str, command: str, read: bytes | None) -> None:
        name = _name_of(command) or f"line-{number}"
        while name in self._names:
            name += f"-{number}"
        self._names.add(name)
        self.definitions.append(
            Definition(
                line=number,
                name=name,
                cron=when,
                argv=(self._env["SHELL"] or _DEFAULTS["SHELL"], "-c", command),
                cwd=self._cwd,
                env={**self._machine.pam, **self._env},
                input=read,
                mail_to=self._env.get("MAILTO", self._user),
            )
        )


_WITHOUT_EFFECT = {"CRON_TZ": "timezone = {!r}", "RANDOM_DELAY": "jitter = '{}m'"}


# --- the parts of a line -----------------------------------------------------------------------------------

_VARIABLE = re.compile(
    r"""(?:"(?P<in_double>[^"=]+)"|'(?P<in_single>[^'=]+)'|(?P<name>[^\s"'=][^\s=]*))\s*=\s*"""
    r"""(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<value>(?!["']).*?))\s*"""
)
_FIVE_FIELDS = re.compile(r"((?:[^ \t]+[ \t]+){4}[^ \t]+)[ \t]*(.*)", re.DOTALL)


def _variable(line: str) -> tuple[str, str] | None:
    match = _VARIABLE.fullmatch(line)
    if match is None:
        return None
    name = match["in_double"] or match["in_single"] or match["name"]
    return name, (match["double"] or match["single"] or match["value"] or "").rstrip()


def _split_when(line: str) -> tuple[str, str]:
    """Return the expression and the text after it."""
    if line.startswith("@"):
        return _first_word(line)
    match = _FIVE_FIELDS.fullmatch(line)
    return (match[1], match[2]) if match else (line, "")


def _first_word(text: str) -> tuple[str, str]:
    word = re.split(r"[ \t]", text, maxsplit=1)[0]
    return word, text[len(word) :].lstrip(" \t")


def _split_input(text: str) -> tuple[str, bytes | None]:
    """Return a command and its standard input, as cron's child makes them from the text of a line."""
    tokens = re.findall(r"\\.|[^\\%]+|%|\\$", text)
    end = tokens.index("%") if "%" in tokens else len(tokens)
    command = "".join(token[1:] if token in {r"\%", r"\\"} else token for token in tokens[:end])
    after = "".join(tokens[end + 1 :])
    if not after:
        return command, None
    read = re.sub(r"(\\?)%", lambda percent: "%" if percent[1] else "\n", after)
    return command, (read if read.endswith("\n") else read + "\n").encode(errors="surrogateescape")


# Words before the name of the main program
_NOT_A_NAME = {
    *("cd", "test", "[", "[[", "if", "then", "else", "!", "true", "exec", "command", "env", "sudo", "time"),
    *("nice", "ionice", "chrt", "timeout", "flock", "chronic", "nohup"),
    *("sh", "bash", "dash", "zsh", "python", "python3", "php", "perl", "ruby", "node"),
}


def _name_of(command: str) -> str:
    """Return a name for a schedule: that of its main program, "" if there is none."""
    for word in re.split(r"[\s;&|(){}<>\"']+", command):
        program = PurePath(word).name
        is_word = word and "=" not in word and not word.startswith(("-", "$", "/dev/")) and not word.isdigit()
        if is_word and program not in _NOT_A_NAME:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", program).strip("-._")[:_MAX_NAME]
            if name and not name.isdigit():
                return name
    return ""
