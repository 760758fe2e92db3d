"""What `bgctl agent install` writes, in the clients themselves: a scripted model stands in for theirs.

They are tried if they are on the PATH: `npm install -g @anthropic-ai/claude-code @openai/codex`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support import Daemon

BGCTL = Path(sys.executable).with_name("bgctl")
PATIENCE = 120.0  # seconds for a whole conversation
LOOKS = 300  # for the tools of the server, which a client starts beside the conversation

Step = tuple[str, dict[str, Any]]  # a tool with its arguments, or "say" with a text

# How each client calls its shell and the tools of the server
TOOLS: dict[str, dict[str, Step]] = {
    "claude": {
        "shell": ("Bash", {"description": "a step"}),
        "wait": ("mcp__bgd__wait", {}),
    },
    "codex": {
        "shell": ("exec_command", {}),
        "wait": ("wait", {}),
    },
}
COMMANDS = {
    "claude": "claude -p --allowedTools Bash,mcp__bgd__wait --output-format stream-json --verbose",
    "codex": "codex exec --json --skip-git-repo-check -m gpt-5.1 -c model_provider=test"
    " --dangerously-bypass-approvals-and-sandbox --dangerously-bypass-hook-trust",
}


class Model(ThreadingHTTPServer):
    """Answers the requests of a client by a script, step by step.

    Attributes:
        asked: the requests that were answered by a step.
    """

    daemon_threads = True

    def __init__(self, client: str, steps: list[Step]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.client, self.steps = client, steps
        self.asked: list[str] = []
        self._looks = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def step_for(self, request: dict[str, Any]) -> Step:
        if self.client == "claude" and not request.get("tools"):  # for a title
            return "say", {"text": "a title"}
        tools = json.dumps(request.get("tools"))
        if "mcp__bgd" not in tools and self._looks < LOOKS:
            self._looks += 1
            name, usual = TOOLS[self.client]["shell"]
            return name, usual | {"command" if self.client == "claude" else "cmd": "true"}
        self.asked.append(json.dumps(request))
        return self.steps[min(len(self.asked), len(self.steps)) - 1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Model

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, given = self.server.step_for(request)
        of_step = messages_events if self.path.startswith("/v1/messages") else responses_events
        events = of_step(name, given, len(self.server.asked))
        lines = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events]
        self._answer("".join(lines).encode(), "text/event-stream")

    def do_GET(self) -> None:
        self._answer(b'{"data": [], "models": []}', "application/json")

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def messages_events(name: str, given: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Return a step as https://docs.anthropic.com/en/api/messages-streaming has it."""
    if name == "say":
        block: dict[str, Any] = {"type": "text", "text": ""}
        delta = {"type": "text_delta", "text": given["text"]}
    else:
        block = {"type": "tool_use", "id": f"toolu_{number}_{name}", "name": name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(given)}
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": "test", "content": []}
    usage = {"input_tokens": 1, "output_tokens": 1}
    reason = {"stop_reason": "end_turn" if name == "say" else "tool_use", "stop_sequence": None}
    return [
        {"type": "message_start", "message": message | {"usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": reason, "usage": usage},
        {"type": "message_stop"},
    ]


def responses_events(name: str, given: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Return a step as https://platform.openai.com/docs/api-reference/responses-streaming has it."""
    if name == "say":
        content = [{"type": "output_text", "text": given["text"]}]
        item: dict[str, Any] = {"type": "message", "role": "assistant", "content": content}
    else:
        item = {"type": "function_call", "call_id": f"call_{number}_{name}", "name": name}
        item["arguments"] = json.dumps(given)
        if name == "wait":
            item["namespace"] = "mcp__bgd"
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    return [
        {"type": "response.created", "response": {"id": f"resp_{number}"}},
        {"type": "response.output_item.done", "item": item | {"id": f"item_{number}"}},
        {"type": "response.completed", "response": {"id": f"resp_{number}", "usage": usage}},
    ]


@pytest.mark.parametrize("client", list(TOOLS))
def test_shell_server_and_hooks_of_a_client_share_a_session(daemon, client):
    if shutil.which(client) is None:
        pytest.skip(f"NOT TRIED IN A CLIENT: its program {client} is not on the PATH")
    daemon.bgctl("agent", "install", client, "--yes")
    job = int(daemon.submit("true")) + 1
    shell, usual = TOOLS[client]["shell"]
    submit = f"{BGCTL} submit --name build --shell 'echo no rule; exit 3'"
    steps = [
        (shell, usual | {"command" if client == "claude" else "cmd": submit}),
        (TOOLS[client]["wait"][0], {"jobs": [job]}),
        ("say", {"text": "I stop."}),
        ("say", {"text": "I know."}),
    ]

    with Model(client, steps) as model:
        threading.Thread(target=model.serve_forever, daemon=True).start()
        done = converse(daemon, client, model)
        model.shutdown()

    assert done.returncode == 0, done.stderr
    assert "build failed (exit code 3)" in model.asked[-1]
    assert "build failed (exit code 3)" not in model.asked[-2]
    assert f"job {job} failed (exit code 3" in model.asked[-2]
    assert len(model.asked) == len(steps)
    session = daemon.shown(str(job))["session"]
    assert session in done.stdout.splitlines()[0]
    assert daemon.bgctl("inbox", "--session", session).stdout == ""


def converse(daemon: Daemon, client: str, model: Model) -> subprocess.CompletedProcess[str]:
    """Run a client until the model has nothing more to do."""
    provider = f'{{name="test", base_url="{model.url}/v1", wire_api="responses", env_key="TEST_KEY"}}'
    more = ["-c", f"model_providers.test={provider}"] if client == "codex" else []
    env = {"ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "sk-ant-test", "TEST_KEY": "test"}
    env["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    return daemon.execute(*COMMANDS[client].split(), *more, "build it", env=env, timeout=PATIENCE)
