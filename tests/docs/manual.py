"""Manual pages: write docs/man from the help texts, etc/bgd.toml and the tables of docs/bgctl.md.

`python -m tests.docs.manual` writes them again. The format is that of man(7), as man-pages(7) asks for it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from textwrap import dedent

import click

from bgctl.cli import cli
from bgd import __main__ as bgd_command
from bgd import __version__
from tests.docs.pages import page, section
from tests.support import ROOT

FOLDER = ROOT / "docs/man"
HELP = ROOT / "bgctl/help.txt"
MANY = 4  # options that a verb shares with an earlier one
WIDTH = 10_000  # characters; no help text is broken over lines, man does that


def pages() -> dict[str, str]:
    """Return the text of each manual page by its file name."""
    return {"bgctl.1": bgctl(), "bgd.1": bgd(), "bgd.toml.5": bgd_toml()}


def help_text() -> str:
    """Return what `bgctl --help` prints on a screen of 80 columns or more."""
    return f"{click.Context(cli, info_name='bgctl', terminal_width=78, **cli.context_settings).get_help()}\n"


def bgctl() -> str:
    context = _context(cli, "bgctl")
    return _page(
        "bgctl",
        1,
        "submit background jobs, watch them and control them",
        [
            ".SH SYNOPSIS",
            ".B bgctl",
            "[OPTIONS] VERB ...",
            ".SH DESCRIPTION",
            _text("bgctl talks to the job daemon of this machine, bgd(1). Without a verb it lists jobs."),
            ".SH OPTIONS",
            _text("These options go before or after the verb, but not after the program of a job."),
            *(line for record in _records(context) for line in _term(*record)),
            ".SH VERBS",
            *_verbs(context, {}),
            ".SH EXIT STATUS",
            *_table(section(page("docs/bgctl.md"), "### Exit codes of bgctl")),
            ".SH ENVIRONMENT",
            *_term("BGD_SOCKET", "Socket of the daemon, unless --socket names one."),
            *_term("BGD_CONFIG", "Configuration file, unless --config names one."),
            *_term("COLUMNS", "Width of lists, unless the terminal says otherwise."),
            ".SH SEE ALSO",
            _references("bgd(1)", "bgd.toml(5)"),
        ],
    )


def bgd() -> str:
    parser = bgd_command._parser()
    options = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return _page(
        "bgd",
        1,
        "the background job daemon",
        [
            ".SH SYNOPSIS",
            ".B bgd",
            "[OPTIONS]",
            ".SH DESCRIPTION",
            _text(
                "bgd takes jobs over a Unix socket, keeps them on disk, starts the most urgent first,"
                " retries what fails, and keeps every log. It stays in the foreground and logs to stderr."
                " The first bgctl submit starts one for you; as a service it starts with the machine."
            ),
            ".PP",
            _text("If bgd is killed, running jobs run on. The next bgd takes them over."),
            ".SH OPTIONS",
            *(
                line
                for action in options
                for line in _term(_invocation(action), _sentence(action.help or ""))
            ),
            ".SH EXIT STATUS",
            _text(_last_paragraph(section(page("docs/bgctl.md"), "### Exit codes of bgctl"))),
            ".SH SIGNALS",
            *_term("SIGTERM, SIGINT", "Stop; [daemon] on_stop says what happens to running jobs."),
            *_term("SIGHUP", "Read the configuration again."),
            ".SH FILES",
            *_term("~/.config/bgd/bgd.toml, /etc/bgd/bgd.toml", "The configuration: bgd.toml(5)."),
            *_term("~/.local/state/bgd, /var/lib/bgd", "The database, the logs of jobs and the socket."),
            ".SH SEE ALSO",
            _references("bgctl(1)", "bgd.toml(5)"),
        ],
    )


def bgd_toml() -> str:
    text = (ROOT / "etc/bgd.toml").read_text()
    introduction, *sections = re.split(r"(?<=\n\n)(?=(?:#.*\n)*(?:# )?\[)", text)
    return _page(
        "bgd.toml",
        5,
        "configuration of bgd",
        [
            ".SH DESCRIPTION",
            *_paragraphs(introduction),
            ".SH KEYS",
            _text("Each key is shown with its default."),
            *(line for text in sections for line in _section(text)),
            ".SH SEE ALSO",
            _references("bgd(1)", "bgctl(1)"),
        ],
    )


# --- verbs and options --------------------------------------------------------------------------------------


def _verbs(above: click.Context, described: dict[tuple[str, str], str]) -> Iterator[str]:
    assert isinstance(above.command, click.Group)
    for name in above.command.list_commands(above):
        command = above.command.get_command(above, name)
        assert command is not None
        context = _context(command, name, above)
        # not `command_path`, which has the arguments of `bgctl batch` before the names of its verbs
        verb = f"{above.info_name} {name}".removeprefix("bgctl ")
        yield f".SS {_escape(verb)}"
        yield f".B bgctl {_escape(verb)}"
        yield _text(" ".join(command.collect_usage_pieces(context)))
        yield ".PP"
        yield from _paragraphs(dedent(command.help or ""))
        yield from _options_of_verb(context, verb, described)
        yield from _examples(command.epilog or "")
        if isinstance(command, click.Group):
            yield from _verbs(context, described)


def _options_of_verb(
    context: click.Context, verb: str, described: dict[tuple[str, str], str]
) -> Iterator[str]:
    """Return the options of a verb; many that an earlier verb has, too, are only named."""
    repeated: dict[str, list[str]] = {}
    records = list(_records(context))
    for record in records:
        repeated.setdefault(described.setdefault(record, verb), []).append(
            record[0].split(" ")[0].rstrip(",")
        )
    repeated = {other: names for other, names in repeated.items() if other != verb and len(names) >= MANY}
    for record in records:
        if described[record] not in repeated:
            yield from _term(*record)
    for other, names in repeated.items():
        yield ".PP"
        yield _text(f"As with {other}: {', '.join(names)}.")


def _records(context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in context.command.params:
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            yield record


def _examples(epilog: str) -> Iterator[str]:
    """Return the examples of a verb, which its epilog shows as they are typed."""
    for block in epilog.split("\n\n"):
        if block.startswith("\b"):
            title, *lines = block.splitlines()[1:]
            yield from (".PP", _text(title), ".PP", ".EX", *(_escape(line) for line in lines), ".EE")


def _context(command: click.Command, name: str, above: click.Context | None = None) -> click.Context:
    settings = {"max_content_width": WIDTH, "terminal_width": WIDTH, **command.context_settings}
    return click.Context(command, info_name=name, parent=above, **settings)


def _invocation(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(action.choices) if action.choices else "")
    shown = f"[{value}]" if action.nargs == "?" else value
    return ", ".join(f"{option} {shown}".rstrip() for option in action.option_strings)


# --- etc/bgd.toml -------------------------------------------------------------------------------------------


def _section(text: str) -> Iterator[str]:
    """Return a section: its heading, what the comments before it say, then its keys."""
    comment = ""  # not yet written: it belongs to the heading or key below it
    for line in _joined(text.splitlines()):
        heading = re.fullmatch(r"(?:# )?(\[[^]]+\])\s*(?:# (.*))?", line)
        assignment = re.fullmatch(r"(?:# +)?(\w+ = .*?)(?:\s+# (.*))?", line)
        if heading:
            yield f".SS {_escape(heading[1])}"
            comment = comment or _sentence(heading[2] or "")
            if comment:
                yield _text(comment)
            comment = ""
        elif assignment:
            yield from _term(assignment[1], comment or _sentence(assignment[2] or ""))
            comment = ""
        elif line:
            comment = line.removeprefix("# ")


def _joined(lines: list[str]) -> list[str]:
    """Return the lines with comments that go over several lines joined."""
    joined: list[str] = []
    for line in lines:
        comment = re.fullmatch(r"\s+# (.*)", line) or re.fullmatch(r"# (?![a-z_]+ = |\[| )(.*)", line)
        after_text = joined and joined[-1] and ("#" in joined[-1]) and not joined[-1].startswith("# [")
        if comment and after_text and (line.startswith(" ") or joined[-1].startswith("# ")):
            joined[-1] += f" {comment[1]}"
        else:
            joined.append(line)
    return joined


# --- man(7) -------------------------------------------------------------------------------------------------


def _page(name: str, number: int, purpose: str, lines: list[str]) -> str:
    head = [
        r".\" Generated by `make man`. Do not edit.",
        f'.TH {name} {number} "" "bgd {__version__}" ""',
        ".SH NAME",
        rf"{_escape(name)} \- {purpose}",
    ]
    return "\n".join([*head, *lines]) + "\n"


def _term(term: str, meaning: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_escape(term)}"
    yield _text(meaning) if meaning else r"\&"


def _table(markdown: str) -> Iterator[str]:
    """Return the paragraphs and the rows of the tables in a section of a page."""
    for block in markdown.strip().split("\n\n"):
        if block.startswith("|"):
            for row in block.splitlines()[2:]:
                term, meaning = (cell.strip() for cell in row.strip("|").split(" | "))
                yield from _term(term, _sentence(_plain(meaning)))
        else:
            yield ".PP"
            yield _text(_plain(block))


def _paragraphs(text: str) -> Iterator[str]:
    plain = re.sub(r"^# ?", "", text, flags=re.MULTILINE).strip()
    for number, paragraph in enumerate(re.split(r"\n\s*\n", plain)):
        if number:
            yield ".PP"
        if paragraph.lstrip(" ").startswith("\b"):
            yield from (".EX", *(_escape(line.strip()) for line in paragraph.splitlines()[1:]), ".EE")
        else:
            yield _text(paragraph)


def _references(*names: str) -> str:
    return ",\n".join(f".BR {name} ({number})" for name, number in (each[:-1].split("(") for each in names))


def _last_paragraph(markdown: str) -> str:
    return _plain(markdown.strip().split("\n\n")[-1])


def _plain(markdown: str) -> str:
    return re.sub(r"\[(.+?)\]\(.+?\)", r"\1", markdown).replace("`", "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""


def _text(text: str) -> str:
    return _escape(" ".join(text.split()))


def _escape(text: str) -> str:
    """Return text that man shows as it is: a leading dot or quote would be a request."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    escaped = escaped.replace('"', r"\(dq")  # in a request it would quote an argument
    return rf"\&{escaped}" if escaped.startswith(".") else escaped


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
    HELP.write_text(help_text())
