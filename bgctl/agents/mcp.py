"""The verb mcp: serves tools for coding agents over the Model Context Protocol, on stdin and stdout."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator
from importlib import import_module

import bgd
from bgctl.common import async_client, say
from bgctl.exit_codes import UNREACHABLE
from bgctl.verbs import verb_without_daemon
from bgd.client.inherited import caller_session
from bgd.errors import Refused, leaf_errors


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
        async with stdio_server(_lines()) as (requests, replies):  # type: ignore[arg-type]  # only iterated
            await server.run(requests, replies, server.create_initialization_options())


async def _lines() -> AsyncIterator[str]:
    """Yield the lines of stdin until the client closes it."""
    from anyio import to_thread  # noqa: PLC0415 - as above

    while line := await to_thread.run_sync(sys.stdin.buffer.readline, MAX_LINE, abandon_on_cancel=True):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            raise Refused(f"a message on stdin is longer than {MAX_LINE} bytes")
        yield line.decode(errors="replace")


MAX_LINE = 1 << 20  # bytes; escaped, the longest arguments of a tool take three quarters of it
