"""The verb mcp: serves tools for coding agents over the Model Context Protocol, on stdin and stdout."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import AsyncIterator
from functools import partial
from importlib import import_module
from typing import Any

import msgspec

import bgd
from bgctl.common import async_client, say
from bgctl.exit_codes import UNREACHABLE
from bgctl.verbs import verb_without_daemon
from bgd.client.inherited import caller_session
from bgd.errors import leaf_errors


@verb_without_daemon("bgctl mcp", "BGD_SESSION=review bgctl mcp")
def mcp_command() -> int | None:
    """Serve tools for coding agents on stdin and stdout.

    An agent starts it as an MCP server, and it ends with the agent; jobs go on. Its tools submit jobs, wait
    for them, read their output and act on them; an answer takes at most 4 KB. Jobs belong to the agent's
    session, as `bgctl inbox` finds it; without one, the server makes one and tells the agent.

    It needs a package of its own: pip install 'bgd[mcp]'.
    """
    try:
        import anyio  # noqa: PLC0415 - it comes with the SDK, which only this verb needs

        import_module("mcp.server")
    except ModuleNotFoundError as error:
        say(f"no module {error.name}: `pip install 'bgd[mcp]'` or `uv tool install 'bgd[mcp]'` installs it")
        return UNREACHABLE
    if sys.stdin.isatty():
        say("a coding agent starts this and speaks MCP with it; Ctrl-D ends it")
    try:
        anyio.run(_serve)
    except ExceptionGroup as errors:  # of the tasks that read and write
        raise next(leaf_errors(errors)) from None
    return 0


async def _serve() -> None:
    """Answer requests until stdin ends."""
    from mcp import types  # noqa: PLC0415 - as above
    from mcp.server.lowlevel import Server  # noqa: PLC0415
    from mcp.server.stdio import stdio_server  # noqa: PLC0415

    from bgctl.agents.tools import TOOLS, AgentTools, described, instructions  # noqa: PLC0415

    given = caller_session()
    session = given or f"mcp-{secrets.token_hex(4)}"
    tools = types.ListToolsResult.model_validate({"tools": list(map(described, TOOLS))})
    async with async_client(autostart=True) as daemon:
        answers = AgentTools(daemon, session)

        async def list_tools(*_: object) -> types.ListToolsResult:
            return tools

        async def call_tool(_: object, params: types.CallToolRequestParams) -> types.CallToolResult:
            # Codex names its session only here
            if given is None and isinstance(thread := (params.meta or {}).get("threadId"), str):
                answers.session = thread
            text, is_error = await answers.call(params.name, params.arguments or {})
            return types.CallToolResult(content=[types.TextContent(text=text)], is_error=is_error)

        server = Server(
            "bgd",
            version=bgd.__version__,
            instructions=instructions(session, is_given=given is not None),
            on_list_tools=list_tools,
            on_call_tool=call_tool,
        )
        # the SDK's own reader cannot be interrupted, so the server would outlive its stdout
        lines = _Lines()
        async with stdio_server(lines) as (requests, lines.replies):  # type: ignore[arg-type]  # only iterated
            await server.run(requests, lines.replies, server.create_initialization_options())


class _Lines:
    """The lines of stdin until the client closes it: those that the SDK can read.

    The SDK would drop the others without an answer, and the client would wait for one. So this answers them
    with an error, to `replies`.
    """

    replies: Any  # set before the first line is read

    async def __aiter__(self) -> AsyncIterator[str]:
        while line := await _read_line():
            text = line.decode(errors="replace")
            if (problem := _problem_with(text)) is None:
                yield text
            elif text.strip():
                await self._refuse(text, f"the message cannot be read: {problem}")

    async def _refuse(self, text: str, problem: str) -> None:
        from mcp import types  # noqa: PLC0415 - as above
        from mcp.shared.message import SessionMessage  # noqa: PLC0415

        error = types.ErrorData(code=types.INVALID_REQUEST, message=problem)
        reply = types.JSONRPCError(jsonrpc="2.0", id=_id_of(text), error=error)
        await self.replies.send(SessionMessage(reply))


async def _read_line() -> bytes:
    """Return the next line of stdin, at its end nothing; of a very long one the first bytes."""
    from anyio import to_thread  # noqa: PLC0415 - as above

    read = partial(to_thread.run_sync, sys.stdin.buffer.readline, MAX_LINE, abandon_on_cancel=True)
    part: bytes = await read()
    line = part
    while len(part) == MAX_LINE and not part.endswith(b"\n"):
        part = await read()
        if len(line) < MAX_READ:
            line += part
    return line


def _problem_with(text: str) -> object:
    """Return why a message cannot be read, None if it can."""
    if len(text) > MAX_LINE:
        return f"it is longer than {MAX_LINE} bytes: write a file, and name it"
    try:
        msgspec.json.decode(text)
    except (UnicodeError, msgspec.MsgspecError, RecursionError) as error:
        return error
    return None


def _id_of(text: str) -> int | str | None:
    """Return the id of a request that is refused; None: it has none that can be read."""
    try:
        number = json.loads(text).get("id")
    except (ValueError, RecursionError, AttributeError):  # AttributeError: it is no object
        return None
    return number if type(number) in {int, str} else None


MAX_LINE = 1 << 20  # bytes; escaped, the longest arguments of a tool take three quarters of it
MAX_READ = 16 << 20  # bytes of a longer message, which may have its id at the end
