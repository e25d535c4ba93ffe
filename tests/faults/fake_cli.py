"""A Claude Code CLI that does what it is told, and misbehaves on request.

It speaks the SDK's protocol, a JSON object per line: answers ``initialize``, takes
user messages, acknowledges control requests. What it does is a list of steps, each
``[name, argument, …]``, one function of :class:`Cli` each:

- ``$FAKE_CLI`` (or a file of that name in the working directory) holds
  ``{"init": [steps before initialize is answered], "ready": [steps after it]}``;
- a user message that begins with ``[[`` is the steps of its turn, and ends with a
  result only if it says so; any other is answered with its own text.

Only the standard library, so that it starts quickly.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, NoReturn

MODEL = "claude-fake"
HOUR_S = 3600.0
INIT = {
    "model": MODEL,
    "permissionMode": "default",
    "mcp_servers": [],
    "claude_code_version": "2.1.330",
}


class Cli:
    """See the module."""

    def __init__(self) -> None:
        self.buffer = b""
        self.prompts: list[dict[str, Any]] = []
        self.uuids: list[str] = []
        self.interrupts = 0
        self.taken_interrupts = 0
        self.controls: dict[str, str] = {}
        self.asked: list[str] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.told_answers = 0
        self.messages = 0
        self.cost_usd = 0.0
        self.initialized = False
        self.ignores_eof = False
        self.children: list[subprocess.Popen[bytes]] = []

    def main(self) -> NoReturn:
        script = json.loads(_script() or "{}")
        while not self.initialized:
            self.receive()
        self.run(script.get("init", []))
        self.acknowledge(self.initialize, {"commands": [], "output_style": "default"})
        self.run(script.get("ready", []))
        while True:
            while not self.prompts:
                self.receive()
            self.turn(self.prompts.pop(0))

    def turn(self, prompt: dict[str, Any]) -> None:
        self.uuids = [prompt["uuid"]]
        self.taken_interrupts = self.interrupts
        self.system("init", **INIT)
        content = prompt["message"]["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        if text.startswith("[["):
            self.run(json.loads(text))
        else:
            self.run([["say", text], ["result"]])

    def run(self, steps: list[list[Any]]) -> None:
        for name, *arguments in steps:
            getattr(self, f"do_{name}")(*arguments)

    # --- what comes in

    def receive(self, timeout_s: float | None = None) -> bool:
        """Take one line and act upon it; return False when none came in time."""
        while b"\n" not in self.buffer:
            if not select.select([0], [], [], timeout_s)[0]:
                return False
            data = os.read(0, 1 << 16)
            if not data and self.ignores_eof:
                time.sleep(HOUR_S)
            if not data:
                sys.exit(0)
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        message = json.loads(line)
        getattr(self, f"on_{message['type']}")(message)
        return True

    def on_user(self, message: dict[str, Any]) -> None:
        self.prompts.append(message)

    def on_control_request(self, message: dict[str, Any]) -> None:
        subtype = message["request"]["subtype"]
        if subtype == "initialize":
            self.initialize = message
            self.initialized = True
            return
        if subtype == "interrupt":
            self.interrupts += 1
        match self.controls.get(subtype, "acknowledge"):
            case "acknowledge":
                self.acknowledge(message, {})
            case "ignore":
                pass
            case refusal:
                response = {"subtype": "error", "error": refusal}
                self.respond(message, response)

    def on_control_response(self, message: dict[str, Any]) -> None:
        response = message["response"]
        self.answers[response["request_id"]] = response.get("response", response)

    def acknowledge(self, message: dict[str, Any], answer: dict[str, Any]) -> None:
        self.respond(message, {"subtype": "success", "response": answer})

    def respond(self, message: dict[str, Any], response: dict[str, Any]) -> None:
        response = {**response, "request_id": message["request_id"]}
        self.send({"type": "control_response", "response": response})

    # --- what goes out

    def send(self, message: dict[str, Any]) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]

    def message(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.messages += 1
        common = {"uuid": f"uuid-{self.messages}", "session_id": "fake"}
        return {"type": kind, **common, "parent_tool_use_id": None, **fields}

    def system(self, subtype: str, **fields: Any) -> None:
        self.send(self.message("system", subtype=subtype, **fields))

    def stream(self, kind: str, **fields: Any) -> None:
        self.send(self.message("stream_event", event={"type": kind, **fields}))

    def assistant(self, message_id: str, *blocks: dict[str, Any]) -> None:
        message = {"id": message_id, "role": "assistant", "model": MODEL}
        self.send(self.message("assistant", message={**message, "content": blocks}))

    # --- steps: what a turn is made of

    def do_say(self, text: str, pieces: int = 2) -> None:
        """A whole message: its deltas, its block, its end."""
        message_id = self.do_begin()
        size = max(1, -(-len(text) // pieces))
        for start in range(0, len(text), size):
            self.do_delta(text[start : start + size])
        self.assistant(message_id, {"type": "text", "text": text})
        self.stream("content_block_stop", index=0)
        self.stream("message_delta", delta={"stop_reason": "end_turn"})
        self.stream("message_stop")

    def do_begin(self) -> str:
        """A message begins, and goes no further."""
        message_id = f"msg_{self.messages}"
        started = {"id": message_id, "model": MODEL, "content": []}
        self.stream("message_start", message=started)
        block = {"type": "text", "text": ""}
        self.stream("content_block_start", index=0, content_block=block)
        return message_id

    def do_delta(self, text: str) -> None:
        delta = {"type": "text_delta", "text": text}
        self.stream("content_block_delta", index=0, delta=delta)

    def do_flood(self, count: int, text: str) -> None:
        """Deltas of one message, as fast as they are taken."""
        self.do_begin()
        for _ in range(count):
            self.do_delta(text)

    def do_result(self, **changes: Any) -> None:
        self.cost_usd += 0.01
        fields: dict[str, Any] = {
            "subtype": "success",
            "is_error": False,
            "duration_ms": 1,
            "duration_api_ms": 1,
            "num_turns": 1,
            "total_cost_usd": self.cost_usd,
            "user_message_uuids": self.uuids,
            **changes,
        }
        self.send(self.message("result", **fields))

    def do_interrupted(self) -> None:
        """The result of a turn that was stopped."""
        self.do_result(subtype="error_during_execution", is_error=True)

    def do_result_with(self, changes: dict[str, Any]) -> None:
        self.do_result(**changes)

    def do_merge(self) -> None:
        """Swallow the prompts that are there already, as the real one does."""
        while self.receive(timeout_s=0.2):
            pass
        self.uuids += [prompt["uuid"] for prompt in self.prompts]
        self.prompts.clear()

    # --- steps: permissions

    def do_tool(self, tool_use_id: str) -> None:
        """The message that announces a tool use."""
        block = {"type": "tool_use", "id": tool_use_id, "name": "Bash", "input": {}}
        self.assistant(f"msg_{tool_use_id}", block)

    def do_ask(self, tool_use_id: str, tool_input: Any = None) -> None:
        """May the tool run?"""
        self.asked.append(tool_use_id)
        request = {
            "subtype": "can_use_tool",
            "tool_name": "Bash",
            "input": tool_input or {"command": "true"},
            "tool_use_id": tool_use_id,
        }
        request_id = f"ask-{len(self.asked)}"
        self.send(
            {"type": "control_request", "request_id": request_id, "request": request}
        )

    def do_take_back(self, number: int) -> None:
        """Cancel the request with that number, from 1 on."""
        cancel = {"type": "control_cancel_request", "request_id": f"ask-{number}"}
        self.send(cancel)

    def do_answers(self, count: int) -> None:
        """Wait for so many more answers, and show each as a tool's result."""
        wanted = self.told_answers + count
        while len(self.answers) < wanted:
            self.receive()
        for request_id in list(self.answers)[self.told_answers :]:
            number = int(request_id.removeprefix("ask-"))
            block = {
                "type": "tool_result",
                "tool_use_id": self.asked[number - 1] if self.asked else "none",
                "content": self.answers[request_id].get("behavior", "error"),
            }
            content = {"role": "user", "content": [block]}
            self.send(self.message("user", message=content))
        self.told_answers = wanted

    # --- steps: waiting

    def do_wait(self, timeout_s: float | None = None) -> None:
        """Do nothing but answer control requests, for ever or for so long."""
        until = time.monotonic() + (HOUR_S if timeout_s is None else timeout_s)
        while (left_s := until - time.monotonic()) > 0:
            self.receive(left_s)

    def do_wait_interrupt(self) -> None:
        while self.interrupts == self.taken_interrupts:
            self.receive()

    def do_forget_interrupts(self) -> None:
        self.taken_interrupts = self.interrupts

    def do_wait_prompt(self) -> None:
        while not self.prompts:
            self.receive()

    def do_wait_file(self, path: str) -> None:
        """Wait until the test says so by making a file."""
        while not os.path.exists(path):
            self.receive(0.01)

    def do_sleep(self) -> None:
        """Read nothing any more."""
        time.sleep(HOUR_S)

    # --- steps: faults

    def do_control(self, subtype: str, reaction: str) -> None:
        """From now on ``acknowledge``, ``ignore``, or refuse with that text."""
        self.controls[subtype] = reaction

    def do_exit(self, code: int) -> None:
        os._exit(code)

    def do_kill(self, name: str = "SIGKILL") -> None:
        os.kill(os.getpid(), getattr(signal, name))

    def do_ignore(self, what: str) -> None:
        """Ignore the end of the input, or a signal."""
        if what == "EOF":
            self.ignores_eof = True
        else:
            signal.signal(getattr(signal, what), signal.SIG_IGN)

    def do_line(self, text: str) -> None:
        """A line as it is; lone surrogates in it become invalid UTF-8."""
        self.write(text.encode("utf-8", "surrogateescape") + b"\n")

    def do_message(self, message: dict[str, Any]) -> None:
        self.send(message)

    def do_lines(self, count: int, text: str) -> None:
        for _ in range(count):
            self.do_line(text)

    def do_long_line(self, chars: int) -> None:
        self.do_delta("x" * chars)

    def do_stderr(self, text: str, count: int = 1) -> None:
        for _ in range(count):
            data = memoryview(text.encode("utf-8", "surrogateescape"))
            while data:
                data = data[os.write(2, data) :]

    def do_close(self, fd: int) -> None:
        os.close(fd)

    def do_spawn(self, holds_stdout: bool = False) -> None:
        """Start a process that outlives this one."""
        child = subprocess.Popen(
            ["sleep", "600"],
            stdin=subprocess.DEVNULL,
            stdout=None if holds_stdout else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.children.append(child)
        self.tell_spawned(child)

    def do_spawn_detached(self) -> None:
        """Start a process that is out of this one's session."""
        self.tell_spawned(subprocess.Popen(["sleep", "600"], start_new_session=True))

    def do_spawn_unmarked(self) -> None:
        """Start a process that has nothing of this one's environment."""
        command = ["/bin/sleep", "600"]
        self.tell_spawned(subprocess.Popen(command, stdout=2, env={}))

    def tell_spawned(self, child: subprocess.Popen[bytes]) -> None:
        with open("spawned", "w", encoding="ascii") as file:
            file.write(str(child.pid))

    def do_tidy(self) -> None:
        """End on SIGTERM with all that was started, as the real one does."""
        signal.signal(signal.SIGTERM, self.on_sigterm)

    def on_sigterm(self, *_: object) -> NoReturn:
        for child in self.children:
            child.kill()
            child.wait()
        os._exit(143)


def _script() -> str:
    if os.path.exists("FAKE_CLI"):
        with open("FAKE_CLI", encoding="utf-8") as file:
            return file.read()
    return os.environ.get("FAKE_CLI", "")


if __name__ == "__main__":
    try:
        Cli().main()
    except BrokenPipeError:
        os._exit(0)
