"""`bgctl mcp`: the server as a process, with the official client and with pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psutil  # type: ignore[import-untyped]  # it has no types
import pytest
from mcp import ClientSession, StdioServerParameters, stdio_client

from bgctl.agents.mcp import MAX_LINE, MAX_READ, mcp_command
from bgctl.agents.tools import MAX_CALLS, TOOLS
from tests.support import DEADLINE, ROOT, wait_until

COMMAND = [sys.executable, "-m", "bgctl", "mcp"]
HELLO = {
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@asynccontextmanager
async def client_of(home, **env):
    program, *arguments = COMMAND
    parameters = StdioServerParameters(command=program, args=arguments, env=home.env | env, cwd=home.folder)
    with (home.folder / "stderr").open("w") as stderr:
        async with stdio_client(parameters, stderr) as streams, ClientSession(*streams) as client:
            yield client


async def answer(client, tool, **arguments):
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    [content] = result.content
    return content.text


async def test_the_handshake_of_2025_tells_of_the_session_and_the_tools(daemon):
    async with client_of(daemon, BGD_SESSION="review") as client:
        began = await client.initialize()
        listed = (await client.list_tools()).tools
        text = await answer(client, "submit", command=["echo", "hello"], wait=45)
        shown = daemon.shown(text.split()[1])

    assert began.protocol_version == "2025-11-25"
    assert began.server_info.name == "bgd"
    assert "session review" in began.instructions
    assert "Codex" not in began.instructions
    assert [tool.name for tool in listed] == list(TOOLS)
    assert {tool.name for tool in listed if tool.annotations.read_only_hint} == {
        "wait",
        "read",
        "list",
        "explain",
    }
    assert {tool.name for tool in listed if tool.annotations.destructive_hint} == {"submit", "cancel", "send"}
    assert text.endswith("\nhello")
    assert shown["session"] == "review"


@pytest.mark.parametrize("given", [None, "review"])
async def test_jobs_of_codex_belong_to_the_thread_that_it_names_with_each_call(daemon, given):
    env = {} if given is None else {"BGD_SESSION": given}
    async with client_of(daemon, **env) as client:
        await client.initialize()
        meta = {"threadId": "0199-7d50", "x-codex-turn-metadata": {"session_id": "0199-7d50"}}
        result = await client.call_tool("submit", {"command": ["true"], "wait": 45}, meta=meta)
        [content] = result.content
        shown = daemon.shown(content.text.split()[1])

    assert shown["session"] == (given or "0199-7d50")


async def test_a_client_of_2026_needs_no_handshake(daemon):
    async with client_of(daemon) as client:
        began = await client.discover()
        text = await answer(client, "submit", command=["echo", "hello"], wait=45)
        result = await client.call_tool("read", {"job": 999})

    assert "2026-07-28" in began.supported_versions
    assert re.search(
        "session (mcp-[0-9a-f]{8})[.] .*`bgctl inbox --session \\1 --wait` [(]in Codex", began.instructions
    )
    assert text.endswith("\nhello")
    assert result.is_error
    assert result.content[0].text == "no job 999: `list` shows the jobs there are"


async def test_a_cancelled_call_ends_the_wait_only(daemon):
    async with client_of(daemon) as client:
        await client.initialize()
        job = (await answer(client, "submit", command=["sleep", "1000"])).split()[1]
        for _ in range(MAX_CALLS + 1):  # those that went on would fill up the server
            with anyio.move_on_after(0.02):
                await client.call_tool("wait", {"jobs": [int(job)]})
        assert f"job {job} running" in await answer(client, "read", job=int(job))
        await answer(client, "cancel", jobs=[int(job)])


async def test_a_wait_goes_on_while_the_daemon_restarts(own_daemon):
    async with client_of(own_daemon) as client:
        await client.initialize()
        job = int((await answer(client, "submit", shell="until test -e go; do sleep .1; done")).split()[1])
        async with anyio.create_task_group() as tasks:

            async def wait():
                assert "succeeded" in await answer(client, "wait", jobs=[job])

            tasks.start_soon(wait)
            await answer(client, "list")
            own_daemon.process.kill()
            own_daemon.process.wait()
            own_daemon.start()
            (own_daemon.folder / "go").touch()


async def test_a_daemon_is_started_if_none_runs(home):
    async with client_of(home) as client:
        await client.initialize()
        assert "hello" in await answer(client, "submit", command=["echo", "hello"], wait=45)
    assert "started a daemon for you" in (home.folder / "stderr").read_text()


# --- the end of the client


class Server:
    """A server with pipes for its streams, that has begun, and a job for which it waits."""

    def __init__(self, daemon):
        self.process: Any = subprocess.Popen(
            COMMAND,
            env=daemon.env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.daemon = daemon
        self.job = daemon.submit("sleep", "1000")
        self.ask(1, **HELLO)
        assert self.next_line()["id"] == 1
        self.call(2, "wait", jobs=[int(self.job)])
        self.call(3, "list", all=True)
        assert self.next_line()["id"] == 3  # so the wait has begun

    def call(self, number, tool, **arguments):
        self.ask(number, method="tools/call", params={"name": tool, "arguments": arguments})

    def ask(self, number, **message):
        self.write(json.dumps({"jsonrpc": "2.0", "id": number, **message}).encode() + b"\n")

    def write(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def next_line(self):
        return json.loads(self.process.stdout.readline())

    def check_end(self, code, said=b""):
        """Check how the server ends and what it says, and that the job goes on."""
        assert self.process.wait(DEADLINE) == code
        assert self.process.stderr.read() == said
        assert self.daemon.shown(self.job)["state"] == "running"


@pytest.fixture
def server(daemon):
    running = Server(daemon)
    with running.process:
        yield running
        running.process.kill()
    daemon.bgctl("cancel", running.job)


def test_the_server_ends_with_its_stdin_while_a_call_waits(server):
    server.process.stdin.close()

    server.check_end(0)


def test_the_server_ends_with_its_stdout(server):
    server.process.stdout.close()
    server.call(4, "list")

    server.check_end(141)


def test_the_server_ends_with_a_client_that_is_killed(daemon):
    job = daemon.submit("sleep", "1000")
    program = (
        "import anyio, sys\n"
        "from mcp import ClientSession, StdioServerParameters, stdio_client\n"
        "async def main():\n"
        f"    server = StdioServerParameters(command={COMMAND[0]!r}, args={COMMAND[1:]}, env={daemon.env})\n"
        "    async with stdio_client(server) as streams, ClientSession(*streams) as client:\n"
        "        await client.initialize()\n"
        "        print('begun', flush=True)\n"
        f"        await client.call_tool('wait', {{'jobs': [{job}]}})\n"
        "anyio.run(main)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], env=daemon.env, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"begun\n"
        [server] = psutil.Process(client.pid).children()
        os.kill(client.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running())

    assert daemon.shown(job)["state"] == "running"
    daemon.bgctl("cancel", job)


def test_what_is_not_of_the_protocol_does_no_harm(server):
    for line in (b"", b"{}", b"\xff\xfe", b"[" * 50_000, b'{"jsonrpc": "2.0", "id": 9}'):
        server.write(line + b"\n")
    server.call(5, "list")
    while (reply := server.next_line()).get("id") != 5:
        assert "error" in reply or reply["result"]["isError"]
    assert not reply["result"]["isError"]


@pytest.mark.parametrize("size", [MAX_LINE, 3 * MAX_LINE])
def test_a_message_that_is_too_long_is_answered_by_an_error_and_calls_go_on(server, size):
    server.write(b'{"method": "tools/call", "params": {"name": "send", "arguments": {"text": "')
    server.write(b"x" * size + b'"}}, "jsonrpc": "2.0", "id": 4}\n')

    refusal = server.next_line()
    server.daemon.bgctl("cancel", server.job)

    assert refusal["id"] == 4
    words = f"the message cannot be read: it is longer than {MAX_LINE} bytes: write a file, and name it"
    assert refusal["error"]["message"] == words
    assert server.next_line()["id"] == 2  # the wait that was in flight


def test_a_longer_message_than_is_kept_is_answered_by_an_error_without_an_id(server):
    for _ in range(MAX_READ // MAX_LINE + 1):
        server.write(b"x" * MAX_LINE)
    server.write(b"\n")

    assert server.next_line()["id"] is None
    server.call(5, "list")
    assert server.next_line()["id"] == 5


@pytest.mark.parametrize("word", ["a\0b", "/bin/a\0b"])
def test_a_program_with_a_nul_in_its_name_is_an_error_of_the_call(server, word):
    server.call(4, "submit", command=[word])

    reply = server.next_line()

    assert reply["id"] == 4
    assert reply["result"]["isError"]
    assert "Traceback" not in str(reply)


def test_half_a_surrogate_is_an_error_of_the_request(server):
    server.call(4, "send", job=int(server.job), text="\ud800")

    reply = server.next_line()

    assert reply["id"] == 4
    assert reply["error"]["message"].startswith("the message cannot be read: ")


def test_without_its_package_one_line_says_what_to_install(monkeypatch, capsys):
    for name in ("mcp", "mcp.server"):
        monkeypatch.setitem(sys.modules, name, None)

    assert mcp_command.main([], standalone_mode=False) == 69
    assert capsys.readouterr().err == (
        "bgctl: no module mcp.server: `pip install 'bgd[mcp]'` or `uv tool install 'bgd[mcp]'` installs it\n"
    )
