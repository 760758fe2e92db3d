"""What README.md and docs/ say is what the code has: names, defaults, codes, limits and the state diagram."""

from __future__ import annotations

import re
import socket
import tomllib
from collections.abc import Iterator
from typing import Any, get_args

import click
import msgspec
import pytest

import bgctl.codes
import bgctl.verdict
import bgd
from bgctl.verbs import bgctl as command
from bgd import __main__ as bgd_command
from bgd.client.remainders import LogRemainder
from bgd.core import spec
from bgd.core.job import MOVES, Outcome, State
from bgd.core.spec import JobSpec
from bgd.daemon.control import connection
from bgd.daemon.control import listener as control
from bgd.daemon.web import connection as browsers
from bgd.daemon.web import pages as web_pages
from bgd.daemon.web import queries, site
from bgd.wire import changes, framing, http, messages, replies, requests, views
from tests.support import DEADLINE, ROOT

README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
DASHBOARD = (ROOT / "docs/dashboard.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])

VALUES = [
    JobSpec,
    changes.Changes,
    views.JobView,
    views.AttemptView,
    views.QueueView,
    views.EventView,
    views.JobError,
    replies.ActResult,
]
ENUMERATIONS = [State, Outcome, requests.ShutdownMode, replies.ErrorCode]


# --- README ------------------------------------------------------------------------------------------------


def test_readme_names_every_verb():
    assert first_cells(section(README, "## Commands")) == command.list_commands(click.Context(command))


def test_readme_names_no_option_that_does_not_exist():
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README)) <= options()


def test_readme_says_what_the_exit_codes_are():
    table = section(README, "### Exit codes of bgctl")
    said = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}

    assert said == {0} | constants(bgctl.codes) | constants(bgctl.verdict) - {bgctl.verdict.SIGNALLED}
    assert {bgd_command.EX_IOERR, bgd_command.EX_CONFIG} <= set(map(int, re.findall(r"\b\d+\b", table)))


def test_readme_lists_every_key_of_the_configuration_with_its_default():
    rows = rows_of(section(README, "## Configuration"))
    said = {row[0].strip("`"): tomllib.loads(f"value = {row[1].strip('`')}")["value"] for row in rows}

    assert said == dict(flat(tomllib.loads(sample_configuration())))


def test_readme_imports_only_public_names():
    imported = re.findall(r"^from bgd import (.+)$", README, re.MULTILINE)

    assert imported
    assert {name for line in imported for name in line.split(", ")} <= set(bgd.__all__)


def test_readme_draws_the_table_of_moves():
    assert block(README, "mermaid") == diagram()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []


# --- docs/protocol.md --------------------------------------------------------------------------------------


def test_protocol_page_names_every_message():
    named = {part: headings(section(PROTOCOL, f"## {part}")) for part in ("Hello", "Requests", "Replies")}

    assert named == {
        "Hello": ["hello"],
        "Requests": [tag(kind) for kind in get_args(requests.Request)],
        "Replies": [tag(kind) for kind in get_args(replies.Reply)],
    }
    assert first_cells(section(PROTOCOL, "## Requests and replies")) == named["Requests"]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("Hello", messages.Hello),
        *(("Requests", kind) for kind in get_args(requests.Request)),
        *(("Replies", kind) for kind in get_args(replies.Reply)),
        *(("Values", kind) for kind in VALUES),
    ],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_protocol_page_names_every_field_and_whether_it_may_be_left_out(part, kind):
    title = kind.__name__ if kind in VALUES else f"`{tag(kind)}`"
    table = section(section(PROTOCOL, f"## {part}"), f"### {title}")
    said = {
        row[0].strip("`"): row[1].rpartition(" = ")[2] for row in rows_of(table, "field") if "=" in row[1]
    }

    assert first_cells(table, "field") == [name for name in kind.__struct_fields__ if is_told(kind, name)]
    assert said == {
        field.name: default_of(field)
        for field in msgspec.structs.fields(kind)
        if not field.required and field.default is not msgspec.UNSET
    }


@pytest.mark.parametrize("kind", ENUMERATIONS, ids=lambda kind: kind.__name__)
def test_protocol_page_names_every_value(kind):
    assert first_cells(PROTOCOL, kind.__name__) == [each.value for each in kind]


def test_protocol_page_says_what_the_limits_are():
    said = [int(row[1].split()[0]) for row in rows_of(section(PROTOCOL, "## Limits"))]

    assert said == [
        framing.MAX_FRAME,
        connection.HELLO_SECONDS,
        connection.FRAME_SECONDS,
        control.MAX_CONNECTIONS,
        connection.MAX_IN_FLIGHT,
        requests.MAX_BATCH,
        requests.MAX_BATCH_BYTES,
        requests.MAX_IDS,
        spec.MAX_ARGV,
        spec.MAX_WORD,
        spec.MAX_WORK,
        spec.MAX_ENV,
        spec.MAX_RESULT,
        spec.MAX_DURATION,
        spec.MAX_WAITS,
        spec.MAX_INPUT,
        spec.MAX_SLOTS,
    ]


def test_bytes_on_the_protocol_page_are_what_they_are_said_to_be():
    hello, submit = (payload_of(block(PROTOCOL, name)) for name in ("hello", "submit"))

    assert messages.decode_hello(hello) == messages.Hello(messages.PROTOCOL, "1")
    assert messages.decode_request(submit) == requests.Submit(1, JobSpec(argv=("true",)))


def test_bytes_of_a_stream_on_the_protocol_page_are_what_they_are_said_to_be():
    follow, log, resume, end = (
        payload_of(block(PROTOCOL, name)) for name in ("follow", "log", "resume", "end")
    )
    part = replies.LogPart(2, 1, b"hi\n")
    rest = LogRemainder(requests.Logs(id=2, job=7, attempt=0, follow=True))

    assert messages.decode_request(follow) == rest.request()
    assert messages.decode_reply(log) == rest.take(part)
    assert (again := rest.request())
    assert messages.decode_request(resume) == msgspec.structs.replace(again, id=1)
    assert messages.decode_reply(end) == replies.End(1)


def test_bytes_on_the_protocol_page_queue_a_job(daemon):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(daemon.socket))
        connection.sendall(bytes.fromhex(block(PROTOCOL, "hello") + block(PROTOCOL, "submit")))
        payloads = payloads_from(connection)

        assert messages.decode_hello(next(payloads)).protocol == messages.PROTOCOL
        submitted = messages.decode_reply(next(payloads))

    assert isinstance(submitted, replies.Submitted)
    assert submitted.id == 1
    with daemon.client() as client:
        assert client.job(submitted.jobs[0]).argv == ["true"]


# --- docs/dashboard.md -------------------------------------------------------------------------------------


def test_dashboard_page_says_what_the_limits_are():
    table = section(DASHBOARD, "## Limits")
    said = [int(number) for row in rows_of(table) for number in re.findall(r"\b\d+\b", row[1])]

    assert said == [
        http.MAX_LINE,
        *(http.MAX_HEADERS, http.MAX_COUNT),
        browsers.HEAD_SECONDS,
        browsers.WRITE_SECONDS,
        site.MAX_CONNECTIONS,
        queries.MAX_ROWS,
        web_pages.ATTEMPTS_ON_A_PAGE,
        *(web_pages.LATEST_TAIL, web_pages.EARLIER_TAIL),
    ]


# --- reading pages -----------------------------------------------------------------------------------------


def section(page: str, heading: str) -> str:
    """Return what stands between a heading and the next one of its level or above."""
    level = heading.index(" ")
    _, found, rest = f"\n{page}".partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def headings(part: str) -> list[str]:
    return re.findall(r"^### `(\w+)`$", part, re.MULTILINE)


def block(page: str, language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found, f"there is no block of {language}"
    return found[1]


def rows_of(part: str, heading: str | None = None) -> list[list[str]]:
    """Return the rows of the first table, or of the first whose first column has this heading."""
    for table in re.findall(r"(?:^\|.*\|\n)+", part, re.MULTILINE):
        first, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        if heading in {None, first[0]}:
            return rows
    return []


def first_cells(part: str, heading: str | None = None) -> list[str]:
    return [row[0].strip("`") for row in rows_of(part, heading)]


# --- what the code has -------------------------------------------------------------------------------------


def options() -> set[str]:
    context = click.Context(command)
    verbs = [command.get_command(context, name) for name in command.list_commands(context)]
    of_bgctl = {
        option for verb in [command, *verbs] if verb for each in verb.params for option in each.opts
    } | {"--help"}
    return of_bgctl | set(re.findall(r"--[a-z-]+", bgd_command._parser().format_help()))


def constants(module: Any) -> set[int]:
    return {value for name, value in vars(module).items() if name.isupper() and isinstance(value, int)}


def sample_configuration() -> str:
    """Return etc/bgd.toml with the keys whose default depends on the machine, as for one user."""
    return re.sub(r"^# (\w+ = )", r"\1", (ROOT / "etc/bgd.toml").read_text(), flags=re.MULTILINE)


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def diagram() -> str:
    """Draw the moves; a job begins where it waits."""
    lines = [
        "stateDiagram-v2",
        "    [*] --> held: on hold",
        "    [*] --> blocked: after other jobs",
        "    [*] --> scheduled: with a delay",
        "    [*] --> queued",
    ]
    lines += [
        f"    {state} --> {after}: {move}" for state, moves in MOVES.items() for move, after in moves.items()
    ]
    return "\n".join(lines) + "\n"


def tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


def is_told(kind: type[msgspec.Struct], name: str) -> bool:
    """Tell whether a field stands in its table: the id that all messages have does not."""
    return name != "id" or kind in VALUES


def default_of(field: msgspec.structs.FieldInfo) -> str:
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if default is None:
        return "nil"
    if default == ():
        return "[]"
    return msgspec.json.encode(default).decode().removesuffix(".0")


def payloads_from(connection: socket.socket) -> Iterator[bytes]:
    reader = framing.FrameReader()
    while data := connection.recv(65536):
        yield from reader.feed(data)


def payload_of(dump: str) -> bytes:
    """Return what stands in a frame written in hexadecimal."""
    (payload,) = framing.FrameReader().feed(bytes.fromhex(dump))
    return payload
