"""agent: add bgd to the configuration of a coding agent, and remove it again."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from difflib import unified_diff
from functools import partial
from importlib.util import find_spec
from itertools import takewhile
from operator import eq
from pathlib import Path
from stat import S_IMODE
from typing import Any, NamedTuple
from zlib import crc32

import click

from bgctl import exit_codes
from bgctl.agents import json_edit
from bgctl.agents.hook import EVENTS
from bgctl.common import answer, is_confirmed, may_ask, replace_file, report, say
from bgctl.options import YES, with_options
from bgctl.verbs import verb_group, verb_without_daemon
from bgd.errors import Refused
from bgd.settings.paths import home_folder
from bgd.text.escape import visible

_CLIENTS = ("claude", "codex")

_client = click.argument("client", type=click.Choice(_CLIENTS))
_project = click.option("--project", is_flag=True, help="Use the files of the project in this folder.")


@verb_without_daemon("bgctl agent install claude", "bgctl agent install codex --project --yes")
@with_options(_client, _project, YES)
def install_command(client: str, *, project: bool, yes: bool) -> int:
    """Add a server, hooks and a skill to the files of a client.

    Claude Code or Codex can then submit jobs, and is told how they end. Shows what it will write, and asks.

    The files are your own, or with --project those of the project in this folder. Nothing of yours changes;
    `bgctl agent remove` takes out exactly what was written.
    """
    code = _apply(list(_additions(client, project=project)), yes=yes, hint=_NEXT[client])
    if not code and find_spec("mcp") is None:
        say("the server needs a package that is missing: `bgctl mcp` says which")
    return code


@verb_without_daemon("bgctl agent print codex")
@with_options(click.argument("client", type=click.Choice(_CLIENTS), required=False), _project)
def print_command(client: str | None, *, project: bool) -> None:
    """Show what `bgctl agent install` would write.

    The default is all clients. Of a file that cannot be changed it shows what to add by hand.
    """
    clients = _CLIENTS if client is None else [client]
    changes = [change for each in clients for change in _additions(each, project=project, by_hand=True)]
    answer([change.as_json() for change in changes], *(change.diff() for change in changes))


@verb_without_daemon("bgctl agent remove claude", "bgctl agent remove codex --project --yes")
@with_options(_client, _project, YES)
def remove_command(client: str, *, project: bool, yes: bool) -> int:
    """Take out what `bgctl agent install` has written.

    What was changed since stays; a message names it, and the exit code is 1. Folders that are empty then are
    deleted.
    """
    changes, is_complete = [], True
    for path, edit in _parts(client, project=project):
        try:
            changes += _change(path, edit, adds=False, project=project)
        except Refused as error:
            say(f"left as it is: {error}")
            is_complete = False
    return _apply(changes, yes=yes) or (0 if is_complete else exit_codes.REFUSED)


agent_command = verb_group(
    "agent",
    "Let coding agents use bgd: Claude Code and Codex.",
    print_command,
    install_command,
    remove_command,
)


def _additions(client: str, *, project: bool, by_hand: bool = False) -> Iterator[_Change]:
    for path, edit in _parts(client, project=project):
        try:
            yield from _change(path, edit, adds=True, project=project)
        except Refused as error:
            if not by_hand:
                words = f"{client}{' --project' * project}"
                raise Refused(f"{error}; `bgctl agent print {words}` shows what to add by hand") from error
            say(str(error))
            yield _Change(path, None, edit(None, True), None)


def _apply(changes: list[_Change], *, yes: bool, hint: str = "") -> int:
    """Show changes, ask, and make them; return the exit code."""
    if changes and not yes:
        if not may_ask():
            raise click.UsageError("there is no terminal to ask on: add --yes")
        click.echo("\n".join(change.diff() for change in changes), err=True)
        if not is_confirmed("Change these files?"):
            return exit_codes.REFUSED
        if changed := [str(change.path) for change in changes if _text_of(change.path) != change.before]:
            raise Refused(f"{', '.join(changed)} changed meanwhile: run this again")
    for change in changes:
        change.make()
    said = [f"{'deleted' if change.after is None else 'wrote'} {change.path}" for change in changes]
    if changes and hint:
        said.append(hint)
    report([change.as_json() for change in changes], *said or ["nothing to change"])
    return 0


class _Change(NamedTuple):
    """The text of a file before and after a change; None: the file does not exist.

    `mode`: of the new file; None: as the umask says.
    """

    path: Path
    before: str | None
    after: str | None
    mode: int | None

    def diff(self) -> str:
        """Return the lines that change, without context, which may be secret."""
        before, after = ((text or "").splitlines() for text in (self.before, self.after))
        old, new = ("/dev/null" if text is None else str(self.path) for text in (self.before, self.after))
        return "\n".join(map(visible, unified_diff(before, after, old, new, n=0, lineterm="")))

    def as_json(self) -> dict[str, str]:
        return {"path": str(self.path), "diff": self.diff()}

    def make(self) -> None:
        """Replace the file atomically, or delete it with its empty folders; a link stays a link."""
        target = Path(os.path.realpath(self.path))
        if self.after is None:
            target.unlink()
            with suppress(OSError):  # of the first that is not empty
                for folder in takewhile(_may_be_made, self.path.parents):
                    folder.rmdir()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, [self.after.encode()], self.mode)


def _may_be_made(folder: Path) -> bool:
    return folder.name in {"bgd", "skills", ".claude", ".agents", ".codex"} and folder != Path.cwd()


def _change(path: Path, edit: _Edit, *, adds: bool, project: bool) -> list[_Change]:
    """Return the change that adds bgd's part to a file or removes it; an empty list if there is none to make.

    Raises:
        Refused: the file cannot be read or edited, or a link leads out of the project.
    """
    # the author of a cloned project could choose a file of the user that gets bgd's part
    if project and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(Path.cwd())):
        raise Refused(f"{path}: a link leads out of the project, to {os.path.realpath(path)}")
    try:
        before = _text_of(path)
        after = edit(before, adds)
    except (OSError, ValueError, RecursionError, Refused) as error:
        raise Refused(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if after == before:
        return []
    if before is not None and not os.access(path, os.W_OK):
        raise Refused(f"{path} is read-only")
    own = None if project else 0o600
    return [_Change(path, before, after, own if before is None else S_IMODE(path.stat().st_mode))]


def _text_of(path: Path) -> str | None:
    """Return the text of a file; None: there is none."""
    if not path.exists():
        return None
    if not path.is_file():  # reading a pipe would wait for its writer
        raise Refused("it is not a regular file")
    return path.read_bytes().decode()


# Takes a file's text, and adds bgd's part if True or else removes it; None: the file does not exist
_Edit = Callable[[str | None, bool], str | None]

# --- which files, and what in them: docs/agents.md says who describes these formats ------------------------


def _parts(client: str, *, project: bool) -> list[tuple[Path, _Edit]]:
    home = Path.cwd() if project else Path(home_folder(os.environ))
    variable = {"claude": "CLAUDE_CONFIG_DIR", "codex": "CODEX_HOME"}[client]
    moved = "" if project else os.environ.get(variable, "")
    folder = Path(moved or home / f".{client}")
    skills = (folder if client == "claude" else home / ".agents") / "skills"
    skill = (skills / "bgd/SKILL.md", partial(_edit_skill, _sealed(f"{_SKILL.read_text()}\n", _SKILL_END)))
    bgctl = _own_command(project=project)
    server = {"command": bgctl, "args": ["mcp"]}
    hook = {"type": "command", "command": f"{shlex.quote(bgctl)} inbox --hook", "timeout": _HOOK_SECONDS}
    if client == "codex":
        fields = "\n".join(_toml(server | {"env_vars": _NEEDED}))
        handler = ", ".join(_toml(hook))
        tables = [f"[[hooks.{event}]]\nhooks = [{{ {handler} }}]\n" for event in EVENTS]
        block = _sealed("\n".join([_BLOCK_BEGIN, f"[mcp_servers.bgd]\n{fields}\n", *tables]), _BLOCK_END)
        return [(folder / "config.toml", partial(_edit_block, block)), skill]
    servers = home / ".mcp.json" if project else Path(moved or home) / ".claude.json"
    entry: list[_Entry] = [(("mcpServers", "bgd"), server)]
    hooks: list[_Entry] = [(("hooks", event, None), {"hooks": [hook]}) for event in reversed(EVENTS)]
    settings = folder / "settings.json"
    return [(servers, partial(_edit_json, entry)), (settings, partial(_edit_json, hooks)), skill]


def _toml(fields: dict[str, Any]) -> Iterator[str]:
    return (f"{name} = {json.dumps(value)}" for name, value in fields.items())


def guide() -> str:
    """Return the page that tells a coding agent how to use bgd: the skill without its front matter."""
    return _SKILL.read_text().split("---\n", 2)[2].lstrip()


def _own_command(*, project: bool) -> str:
    """Return the path of bgctl, because a client may have another PATH.

    For the files of a project, which others share, return its name if PATH leads to this bgctl.
    """
    own, found = Path(sys.executable).with_name("bgctl"), shutil.which("bgctl")
    if not found or os.path.realpath(found) != os.path.realpath(own):
        return str(own)
    return "bgctl" if project else found


_Entry = tuple[json_edit.Path, dict[str, Any]]  # where in a JSON document, and what

_SKILL = Path(__file__).with_name("SKILL.md")
_NEEDED = ["BGD_CONFIG", "BGD_SESSION", "BGD_SOCKET", "XDG_CONFIG_HOME", "XDG_STATE_HOME"]  # by the server
_HOOK_SECONDS = 10  # for a hook; it takes a fraction of a second
_NEXT = {
    "claude": "Claude Code reads this when a session starts",
    "codex": "Codex reads this when a session starts; type /hooks there to trust the hooks, or it skips them",
}

# --- how: in JSON, in TOML, and in a file of our own --------------------------------------------------------


def _edit_json(entries: list[_Entry], text: str | None, adds: bool) -> str | None:  # noqa: FBT001 - an _Edit
    json.loads("{}" if text is None else text)
    new = text or ""
    for path, value in entries:
        if new:
            if adds and json_edit.removed(new, path, partial(eq, value)) != new:
                continue
            new = json_edit.removed(new, path, partial(_is_ours, value))
        if new and json_edit.removed(new, path, partial(_is_similar, path)) != new:
            raise Refused(f"{' '.join(filter(None, path))} {_CHANGED}")
        if adds:
            new = json_edit.added(new, path, value)
    return new or None


def _is_ours(value: object, found: object) -> bool:
    """Return whether two entries differ at most in the path of bgctl."""
    texts = (json.dumps(each, sort_keys=True) for each in (value, found))
    one, other = (re.sub(r"""\"'?[^"]*/bgctl\b'?""", '"bgctl', text) for text in texts)
    return one == other


def _is_similar(path: json_edit.Path, found: object) -> bool:
    return path[-1] is not None or "inbox --hook" in json.dumps(found)


def _edit_block(block: str, text: str | None, adds: bool) -> str | None:  # noqa: FBT001 - an _Edit
    tomllib.loads(text or "")
    if text is None or (adds and block in text):
        return text or (block if adds else None)
    left: str | None = text
    if (begin := text.find(_BLOCK_BEGIN)) >= 0:
        found = _BLOCK.match(text, begin)
        if not found or not _is_sealed(found.group(), _BLOCK_END) or not _NO_KEY.match(text, found.end()):
            raise Refused(f"the part of bgctl {_CHANGED}")
        left = text[:begin].removesuffix("\n") + text[found.end() :]
        left = left if begin or left else None
    servers = tomllib.loads(left or "").get("mcp_servers")
    if isinstance(servers, dict) and "bgd" in servers:
        raise Refused(f"mcp_servers bgd {_CHANGED}")
    new = left if not adds else block if left is None else f"{left}\n{block}"
    tomllib.loads(new or "")
    return new


def _edit_skill(skill: str, text: str | None, adds: bool) -> str | None:  # noqa: FBT001 - an _Edit
    if text is not None and not _is_sealed(text, _SKILL_END):
        raise Refused(f"it {_CHANGED}")
    return skill if adds else None


def _sealed(text: str, end: str) -> str:
    """Return the text with a last line that has its checksum, so that later edits are noticed."""
    return f"{text}{end.format(f'{crc32(text.encode()):08x}')}\n"


def _is_sealed(text: str, end: str) -> bool:
    whole, _, _ = text.removesuffix("\n").rpartition("\n")
    return text == _sealed(f"{whole}\n", end)


_CHANGED = "was changed, or is not from bgctl: edit or remove it by hand"
_SKILL_END = "<!-- written by bgctl agent install, checksum {} -->"
_BLOCK_BEGIN = "# >>> written by bgctl agent install\n"
_BLOCK_END = "# <<< written by bgctl agent install, checksum {}"
_BLOCK = re.compile(f"{_BLOCK_BEGIN}.*?{_BLOCK_END.format('[0-9a-f]{8}')}\n", re.DOTALL)
_NO_KEY = re.compile(r"(?:\s|#.*)*(?:\[|\Z)")  # a key after the block would join the table before it
