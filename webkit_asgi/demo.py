"""Demo mode: the real server and the real CLI, with a scripted model behind them.

``AGENT_WEBKIT_DEMO=1 uvicorn webkit_asgi:app`` needs no account: a scripted model
listens on loopback, every session's Claude Code CLI is pointed at it, and a token is
made up unless one is set. Agents work in a directory of their own, which goes away
with the server.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from webkit_core import Agent, CanUseTool, ClaudeFactory, SessionConfig

from .demo_script import demo_steps
from .scripted_model import ScriptedModel, cli_env, serve_in_thread

GREETING = """
webkit demo: real agents, scripted model, no account needed.

Paste this into another terminal to start a session and watch it:

  export URL={url} AUTH='Authorization: Bearer {token}'
  export ID=$(curl -sX POST $URL/sessions -H "$AUTH" | cut -d'"' -f4)
  curl -sN $URL/sessions/$ID/stream -H "$AUTH" &

and talk to it:

  curl -X POST $URL/sessions/$ID/input -H "$AUTH" \\
    -d '{{"type": "user_message", "content": "hello, what can you show me?"}}'
"""


class Demo:
    """The scripted model and the factory that points agents at it.

    Args:
        token: what the greeting shows clients to send.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._stack = ExitStack()
        self._factory: ClaudeFactory | None = None

    async def __call__(self, config: SessionConfig, can_use_tool: CanUseTool) -> Agent:
        """Make a session's agent: the ``sdk_factory`` of the demo."""
        if self._factory is None:
            self.start()
        assert self._factory is not None
        return await self._factory(config, can_use_tool)

    def start(self) -> None:
        """Start the model and print a tour that can be pasted. Idempotent."""
        if self._factory is not None:
            return
        home = Path(tempfile.mkdtemp(prefix="webkit-demo-"))
        self._stack.callback(shutil.rmtree, home, ignore_errors=True)
        workspace = home / "workspace"
        workspace.mkdir()
        base_url = self._stack.enter_context(serve_in_thread(ScriptedModel(demo_steps)))
        self._factory = ClaudeFactory(env=cli_env(base_url, home), cwd=str(workspace))
        greeting = GREETING.format(url=_url_from(sys.argv), token=self._token)
        print(greeting, flush=True)  # noqa: T201  # the demo talks to a person

    def stop(self) -> None:
        """Stop the model and remove what the agents left."""
        self._stack.close()
        self._factory = None


def _url_from(argv: list[str]) -> str:
    """Return the server's URL as its command line says it; the app is not told."""
    options = dict(pairwise(argv))
    options |= dict(
        arg.split("=", 1) for arg in argv if arg.startswith("--") and "=" in arg
    )
    host = options.get("--host", "127.0.0.1")
    port = options.get("--port", "8000")
    if host in ("0.0.0.0", "::"):  # noqa: S104  # what it listens on is no address
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
