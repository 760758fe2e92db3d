"""bgctl agent: what it writes for each client, and that `remove` leaves every file as it was."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from textwrap import dedent

import click
import pexpect  # type: ignore[import-untyped]  # it has no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgctl.agents import install
from bgctl.cli import cli as command
from bgctl.cli import invoke
from bgd.errors import Refused
from tests.bgctl.agents.test_json_edit import files as json_files
from tests.docs.test_pages import commands_of
from tests.support import DEADLINE, seen

both = pytest.mark.parametrize("client", ["claude", "codex"])

BGCTL = str(Path(sys.executable).with_name("bgctl"))
FORWARDED = ["BGD_CONFIG", "BGD_SESSION", "BGD_SOCKET", "XDG_CONFIG_HOME", "XDG_STATE_HOME"]
HOOK = {"type": "command", "command": f"{BGCTL} inbox --hook", "timeout": 10}
HOOKS = {"hooks": {event: [{"hooks": [HOOK]}] for event in ("SessionStart", "UserPromptSubmit", "Stop")}}


@pytest.fixture
def agent(home):
    """Return a function that runs `bgctl agent` and checks its exit code."""
    home.env["PATH"] = os.defpath  # bgctl is not in it

    def run(*words, code=0, **given):
        done = home.bgctl("agent", *words, **given)
        assert done.returncode == code, done.stderr
        return done

    return run


def tree(folder):
    """Return all files with their modes and bytes, and all folders and links."""
    found = {}
    for path in sorted(folder.rglob("*")):
        what = path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, what)
    return found


def written(folder, texts):
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


# --- what is written ---------------------------------------------------------------------------------------


def test_claude_code_gets_a_server_hooks_and_a_skill(agent, home):
    agent("install", "claude", "--yes")

    servers = json.loads((home.folder / ".claude.json").read_text())
    assert servers == {"mcpServers": {"bgd": {"command": BGCTL, "args": ["mcp"]}}}
    hooks = json.loads((home.folder / ".claude/settings.json").read_text())
    assert hooks == HOOKS
    assert (home.folder / ".claude/skills/bgd/SKILL.md").read_text().startswith("---\nname: bgd\n")


def test_codex_gets_a_server_hooks_and_a_skill(agent, home):
    said = agent("install", "codex", "--yes").stderr

    config = tomllib.loads((home.folder / ".codex/config.toml").read_text())
    assert config == {
        "mcp_servers": {"bgd": {"command": BGCTL, "args": ["mcp"], "env_vars": FORWARDED}},
        **HOOKS,
    }
    assert (home.folder / ".agents/skills/bgd/SKILL.md").read_text().startswith("---\nname: bgd\n")
    assert "type /hooks there" in said


@both
def test_the_files_of_a_project_are_its_own(agent, home, client):
    project = home.folder / "project"
    project.mkdir()
    before = tree(home.folder)
    agent("install", client, "--project", "--yes", cwd=project)

    names = {name for name in tree(home.folder) if name not in before}
    assert {name.partition("/")[0] for name in names} == {"project"}
    of = {"claude": {".mcp.json", ".claude/settings.json"}, "codex": {".codex/config.toml"}}
    assert {f"project/{name}" for name in of[client]} <= names
    agent("remove", client, "--project", "--yes", cwd=project)
    assert tree(home.folder) == before


def test_folders_that_were_moved_are_found(agent, home):
    moved = str(home.folder / "moved")
    agent("install", "claude", "--yes", env={"CLAUDE_CONFIG_DIR": moved})
    agent("install", "codex", "--yes", env={"CODEX_HOME": moved})

    names = {".claude.json", "settings.json", "skills/bgd/SKILL.md", "config.toml"}
    assert {f"moved/{name}" for name in names} <= tree(home.folder).keys()


def test_bgctl_in_the_path_is_called_by_the_path_that_found_it_and_in_projects_by_name(agent, home):
    folder = home.folder / "bin"
    folder.mkdir()
    (folder / "bgctl").symlink_to(BGCTL)
    env = {"PATH": f"{folder}:{os.defpath}"}
    agent("install", "codex", "--yes", env=env)
    (home.folder / "project").mkdir()
    agent("install", "codex", "--project", "--yes", env=env, cwd=home.folder / "project")

    assert f'command = "{folder}/bgctl"' in (home.folder / ".codex/config.toml").read_text()
    assert 'command = "bgctl"' in (home.folder / "project/.codex/config.toml").read_text()


@pytest.mark.parametrize("is_missing", [True, False])
def test_install_says_if_the_package_of_the_server_is_missing(home, monkeypatch, capsys, is_missing):
    monkeypatch.setenv("HOME", str(home.folder))
    monkeypatch.setattr(install, "find_spec", lambda name: None if is_missing else name)
    monkeypatch.setattr("bgctl.common._given", {})

    assert invoke(["agent", "install", "codex", "--yes"]) == 0
    assert ("`bgctl mcp` says which" in capsys.readouterr().err) == is_missing


def test_the_skill_is_the_page_of_the_help(agent, home):
    agent("install", "claude", "--yes")
    guide = home.bgctl("help", "--for-agents").stdout

    assert len(guide.encode()) <= 3 * 1024
    skill = (home.folder / ".claude/skills/bgd/SKILL.md").read_text()
    front, _, rest = skill.removeprefix("---\n").partition("---\n")
    assert re.fullmatch(r"name: bgd\ndescription: [^\n:]{1,1024}\n", front)
    assert re.fullmatch(rf"\n{re.escape(guide)}\n<!-- .* checksum [0-9a-f]{{8}} -->\n", rest)


def test_commands_of_the_page_can_be_read(home, monkeypatch):
    monkeypatch.setattr(click.Command, "invoke", lambda *_: 0)  # parse the command line, but do nothing
    monkeypatch.setattr("bgctl.common._given", {})
    guide = home.bgctl("help", "--for-agents").stdout
    blocks = re.sub(
        r"^(?:    .*\n)+", lambda found: f"```sh\n{dedent(found[0])}```\n", guide, flags=re.MULTILINE
    )
    commands = [words for words in commands_of(blocks) if words]

    assert {"submit", "inbox", "wait", "run", "logs"} <= {words[0] for words in commands}
    for words in commands:
        with command.make_context("bgctl", list(words)) as context:
            command.invoke(context)


# --- asking ------------------------------------------------------------------------------------------------


@both
def test_print_shows_what_install_writes_and_writes_nothing(agent, home, client):
    before = tree(home.folder)
    shown = agent("print", client).stdout
    documents = json.loads(agent("print", client, "--json").stdout)

    assert tree(home.folder) == before
    assert shown == "".join(f"{document['diff']}\n" for document in documents)
    agent("install", client, "--yes")
    texts = {document["path"]: Path(document["path"]).read_text() for document in documents}
    lines = [f"+{line}" for text in texts.values() for line in text.splitlines()]
    assert [line for line in shown.splitlines() if line[0] == "+" and line[:3] != "+++"] == lines


def test_the_default_is_to_print_for_all_clients(agent):
    shown = agent().stdout

    assert shown == agent("print").stdout == agent("print", "claude").stdout + agent("print", "codex").stdout


@both
def test_lines_of_the_user_are_not_shown(agent, home, client):
    names = {"claude": ".claude.json", "codex": ".codex/config.toml"}
    secret = {"claude": '{\n  "token": "secret"\n}\n', "codex": 'token = "secret"\n'}
    written(home.folder, {names[client]: secret[client]})

    assert "secret" not in agent("print", client).stdout


def asked(home, client):
    """Start an install at a terminal, up to its question."""
    child = pexpect.spawn(
        sys.executable, ["-m", "bgctl", "agent", "install", client], env=home.env, cwd=home.folder,
        encoding="utf-8", timeout=DEADLINE, dimensions=(24, 300),
    )  # fmt: skip
    child.expect_exact("Change these files? [y/N]: ")
    return child


@both
@pytest.mark.parametrize("answer", ["y", "n", "\x03"])
def test_install_asks(agent, home, client, answer):
    before = tree(home.folder)
    shown = agent("print", client).stdout
    child = asked(home, client)
    assert child.before.replace("\r\n", "\n") == shown
    child.send(answer if answer == "\x03" else f"{answer}\n")
    said = seen(child)

    assert (tree(home.folder) != before) == (answer == "y")
    assert ("nothing changed" in said) == (answer != "y")
    assert child.exitstatus == {"y": 0, "n": 1, "\x03": 130}[answer]


def test_what_the_client_writes_before_the_answer_is_not_overwritten(home):
    child = asked(home, "claude")
    written(home.folder, {".claude.json": '{"numStartups": 2}'})
    before = tree(home.folder)
    child.sendline("y")

    assert f"{home.folder}/.claude.json changed meanwhile: run this again" in seen(child)
    assert (child.exitstatus, tree(home.folder)) == (1, before)


@both
@pytest.mark.parametrize("verb", ["install", "remove"])
def test_without_a_terminal_it_needs_yes(agent, home, client, verb):
    if verb == "remove":
        agent("install", client, "--yes")
    before = tree(home.folder)
    done = agent(verb, client, code=2)

    assert (done.stdout, done.stderr) == ("", "bgctl: there is no terminal to ask on: add --yes\n")
    assert tree(home.folder) == before


@both
def test_installing_twice_changes_nothing(agent, home, client):
    agent("install", client, "--yes")
    before = tree(home.folder)
    done = agent("install", client)

    assert done.stderr == "bgctl: nothing to change\n"
    assert agent("print", client).stdout == ""
    assert tree(home.folder) == before


def test_a_part_in_a_file_that_another_program_has_rewritten_is_removed(agent, home):
    agent("install", "claude", "--yes")
    files = (".claude.json", ".claude/settings.json")
    for path in map(home.folder.joinpath, files):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"mine": 1}, sort_keys=True, indent=4))
    agent("remove", "claude", "--yes")

    assert [(home.folder / name).read_text() for name in files] == ['{\n    "mine": 1\n}'] * 2


# --- every file is as it was -------------------------------------------------------------------------------

TABLES = ['model = "x"', "[features]", "hooks = true", "[mcp_servers.other]", '"c\\u00e4" = 1', "# ä", "",
          "[[hooks.Stop]]", "[tui]"]  # fmt: skip
toml_files = st.builds(
    lambda lines, newline, end: newline.join(lines) + end,
    st.lists(st.sampled_from(TABLES), max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\n", "\r\n", "\n\n"]),
)
trees = st.one_of(
    st.tuples(st.just("claude"), st.fixed_dictionaries({}, optional={
        ".claude.json": json_files,
        ".claude/settings.json": json_files,
        ".claude/skills/x/SKILL.md": st.just("x"),
    })),
    st.tuples(st.just("codex"), st.fixed_dictionaries({}, optional={
        ".codex/config.toml": toml_files, ".agents/skills/bgd/notes": st.just(""),
    })),
)  # fmt: skip


@given(trees, st.sampled_from([0o600, 0o644, 0o640]))
def test_remove_leaves_every_file_as_it_was(given_tree, mode):
    client, texts = given_tree
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setenv("HOME", name)
        written(folder, texts)
        for path in texts:
            (folder / path).chmod(mode)
        before = tree(folder)
        try:
            changes = list(install._additions(client, project=False))
        except Refused:  # nothing is written then
            return
        for change in changes:
            change.make()
        between = tree(folder)
        assert list(install._additions(client, project=False)) == []
        assert all(before[name][0] == between[name][0] for name in before)

        for path, edit in install._parts(client, project=False):
            for change in install._change(path, edit, adds=False, project=False):
                change.make()

        assert tree(folder) == before


@both
def test_links_stay_and_their_targets_change(agent, home, client):
    name = {"claude": ".claude/settings.json", "codex": ".codex/config.toml"}[client]
    written(home.folder, {"dotfiles/file": "{}" if client == "claude" else ""})
    (home.folder / name).parent.mkdir()
    (home.folder / name).symlink_to("../dotfiles/file")
    before = tree(home.folder)
    agent("install", client, "--yes")

    assert "inbox --hook" in (home.folder / "dotfiles/file").read_text()
    assert (home.folder / name).is_symlink()
    agent("remove", client, "--yes")
    assert tree(home.folder) == before


@both
@pytest.mark.parametrize("verb", ["install", "remove"])
def test_links_that_lead_out_of_a_project_are_refused(agent, home, client, verb):
    name = {"claude": ".claude", "codex": ".codex"}[client]
    project = home.folder / "project"
    project.mkdir()
    agent("install", client, "--yes")
    (project / name).symlink_to(home.folder / name)
    before = tree(home.folder)
    said = agent(verb, client, "--project", "--yes", cwd=project, code=1).stderr

    assert f"{project / name}/" in said
    assert f"a link leads out of the project, to {home.folder.resolve() / name}/" in said
    assert tree(home.folder) == before


@both
def test_a_dangling_link_out_of_a_project_creates_nothing(agent, home, client):
    name = {"claude": ".claude/skills", "codex": ".agents"}[client]
    project = home.folder / "project"
    (project / name).parent.mkdir(parents=True)
    (project / name).symlink_to(home.folder / "new")
    before = tree(home.folder)

    assert (
        "a link leads out of the project"
        in agent("install", client, "--project", "--yes", cwd=project, code=1).stderr
    )
    assert tree(home.folder) == before


@pytest.mark.parametrize("words", [("install", "--yes"), ("remove", "--yes"), ("print",)])
def test_a_pipe_in_a_project_is_refused_and_not_read(agent, home, words):
    (home.folder / ".claude").mkdir()
    os.mkfifo(home.folder / ".claude/settings.json")
    said = agent(
        *words,
        "claude",
        "--project",
        *["--yes"][: words != ("print",)],
        cwd=home.folder,
        code=words != ("print",),
    )

    assert ".claude/settings.json: it is not a regular file" in said.stderr


@both
def test_new_files_of_the_user_are_private_and_those_of_a_project_are_not(agent, home, client):
    agent("install", client, "--yes")
    project = home.folder / "project"
    project.mkdir()
    agent("install", client, "--project", "--yes", cwd=project)

    modes = {path.stat().st_mode & 0o777 for path in home.folder.rglob("*") if path.is_file()}
    shared = {path.stat().st_mode & 0o777 for path in project.rglob("*") if path.is_file()}
    assert (modes - shared, shared) == ({0o600}, {0o644})


@both
def test_a_read_only_file_is_refused_before_anything_is_written(home, client, monkeypatch):
    name = {"claude": ".claude/settings.json", "codex": ".codex/config.toml"}[client]
    written(home.folder, {name: "{}" if client == "claude" else ""})
    monkeypatch.setenv("HOME", str(home.folder))
    monkeypatch.setattr(
        os, "access", lambda path, mode: (str(path), mode) != (f"{home.folder}/{name}", os.W_OK)
    )

    with pytest.raises(Refused, match=rf"{name} is read-only"):
        list(install._additions(client, project=False))


@pytest.mark.parametrize(
    ("client", "name", "text", "problem"),
    [
        ("claude", ".claude.json", "{", "Expecting property name enclosed in double quotes"),
        ("claude", ".claude/settings.json", "", "Expecting value"),
        ("claude", ".claude/settings.json", '// mine\n{"a": 1}', "Expecting value"),
        ("claude", ".claude/settings.json", "[" * 100_000, "recursion"),
        ("claude", ".claude/settings.json", '{"hooks": []}', "stands where an object is needed"),
        ("claude", ".claude.json", '{"mcpServers": {"bgd": {"command": "x"}}}', "mcpServers bgd was changed"),
        ("claude", ".claude/skills/bgd/SKILL.md", "mine", "was changed, or is not from bgctl"),
        ("codex", ".codex/config.toml", "a = ", "Invalid value"),
        ("codex", ".codex/config.toml", '[mcp_servers.bgd]\ncommand = "x"', "mcp_servers bgd was changed"),
        ("codex", ".codex/config.toml", '[mcp_servers.bgd.env]\nA = "b"', "mcp_servers bgd was changed"),
        ("codex", ".codex/config.toml", "mcp_servers = {}\n", "mcp_servers"),
        ("codex", ".agents/skills/bgd/SKILL.md", "mine", "was changed, or is not from bgctl"),
    ],
)  # fmt: skip
def test_what_does_not_fit_in_is_refused_in_one_line(agent, home, client, name, text, problem):
    written(home.folder, {name: text})
    before = tree(home.folder)
    done = agent("install", client, "--yes", code=1)

    assert done.stderr.startswith(f"bgctl: {home.folder}/{name}: ")
    assert problem in done.stderr
    assert done.stderr.endswith(f"; `bgctl agent print {client}` shows what to add by hand\n")
    shown = agent("print", client)
    assert shown.stderr == f"{done.stderr.rpartition(';')[0]}\n"
    assert f"+++ {home.folder}/{name}" in shown.stdout
    assert done.stderr.count("\n") == 1
    assert tree(home.folder) == before


@pytest.mark.parametrize(
    ("client", "name", "change"),
    [
        ("claude", ".claude.json", ('"mcp"', '"mcp", "--verbose"')),
        ("claude", ".claude/settings.json", ("10", "20")),
        ("claude", ".claude/skills/bgd/SKILL.md", ("poll", "ask")),
        ("codex", ".codex/config.toml", ("10", "20")),
        ("codex", ".codex/config.toml", ("# <<<", "# mine\n# <<<")),
        ("codex", ".codex/config.toml", ("\n# <<<", "\n# <<")),
        ("codex", ".codex/config.toml", ("# >>>", '[mcp_servers.bgd.env]\nA = "b"\n# >>>')),
        ("codex", ".agents/skills/bgd/SKILL.md", ("poll", "ask")),
    ],
)
def test_a_part_that_was_changed_stays_and_the_others_go(agent, home, client, name, change):
    agent("install", client, "--yes")
    path = home.folder / name
    path.write_text(path.read_text().replace(*change))
    changed = path.read_bytes()
    done = agent("remove", client, "--yes", code=1)

    assert f"left as it is: {path}: " in done.stderr
    assert {name: what for name, (_, what) in tree(home.folder).items() if what} == {name: changed}


def test_a_key_below_the_part_of_bgctl_does_not_get_into_another_table(agent, home):
    written(home.folder, {".codex/config.toml": "[tui]\ntheme = 1\n"})
    agent("install", "codex", "--yes")
    path = home.folder / ".codex/config.toml"
    installed = path.read_text()
    path.write_text(f"{installed}# mine\nkey = 1\n")
    agent("remove", "codex", "--yes", code=1)
    assert path.read_text() == f"{installed}# mine\nkey = 1\n"

    path.write_text(f"{installed}# mine\n[other]\nkey = 1\n")
    agent("remove", "codex", "--yes")
    assert path.read_text() == "[tui]\ntheme = 1\n# mine\n[other]\nkey = 1\n"


@both
def test_what_another_version_wrote_is_replaced_and_removed(agent, home, client, monkeypatch):
    monkeypatch.setenv("HOME", str(home.folder))
    before = tree(home.folder)
    with monkeypatch.context() as patch:
        patch.setattr(install, "_own_command", lambda **_: "/opt/my bgd/bin/bgctl")
        patch.setattr(install, "_SKILL", home.folder / "page")
        (home.folder / "page").write_text("---\nname: bgd\n---\nold\n")
        for change in install._additions(client, project=False):
            change.make()
        (home.folder / "page").unlink()
    old = tree(home.folder)
    agent("remove", client, "--yes")
    assert tree(home.folder) == before

    for name, (_, what) in old.items():
        if what:
            written(home.folder, {name: what.decode()})
    agent("install", client, "--yes")
    assert "/opt/my bgd" not in "".join(str(what) for _, what in tree(home.folder).values())
    agent("remove", client, "--yes")
    assert tree(home.folder) == before


def test_removing_what_is_not_there_says_so(agent):
    assert agent("remove", "claude").stderr == "bgctl: nothing to change\n"
