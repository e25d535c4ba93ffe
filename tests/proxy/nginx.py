"""The real nginx with the README's block: what an operator would run."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.client import new_http
from tests.readme.blocks import BLOCKS

START_S = 20.0
STOP_S = 20.0
RUNNING = "start worker process "
NAME_A = "a.agents.example.com"
NAME_B = "b.agents.example.com"
UPSTREAM_A = "127.0.0.1:8000"
UPSTREAM_B = "10.0.0.2:8000"

HOSTILE = """
    # What a machine's nginx.conf may have set: the block must not depend on it.
    gzip on;
    gzip_min_length 0;
    gzip_proxied any;
    gzip_types text/event-stream application/json;
    tcp_nopush on;
    proxy_buffering on;
    proxy_request_buffering off;
    proxy_ignore_headers X-Accel-Buffering;
    proxy_next_upstream error timeout http_502 non_idempotent;
"""

MAIN = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 1024; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {defaults}
    include {directory}/webkit.conf;
}}
"""


def readme_block() -> str:
    """Return the block as it stands."""
    (block,) = (b for b in BLOCKS if b.language == "nginx")
    assert block.mark == "nginx"
    return block.code


def adapted(block: str, changes: Mapping[str, str]) -> str:
    """Return the block with each change made, once and exactly once."""
    for old, new in changes.items():
        assert block.count(old) == 1, f"{old!r} stands {block.count(old)} times in it"
        block = block.replace(old, new)
    return block


def find_nginx() -> str:
    """Return the path of nginx; without it, skip, and fail where CI runs."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        message = "nginx is needed to test the README's nginx block"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class Nginx:
    """A running nginx with its log collected."""

    def __init__(self, command: list[str], port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.lines: list[str] = []
        self._up = threading.Event()
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def http(self, name: str = NAME_A) -> httpx.AsyncClient:
        """Return a client that asks for the host of that name."""
        client = new_http(self.url)
        client.headers["host"] = name
        return client

    def wait_up(self) -> None:
        assert self._up.wait(START_S), self.output
        assert RUNNING in self.output, self.output

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        finally:
            self._process.kill()
            self._reader.join(STOP_S)

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in stderr:
                self.lines.append(line)
                if RUNNING in line:
                    self._up.set()
        self._up.set()


@contextmanager
def running_nginx(
    directory: Path,
    a: str,
    b: str = "http://127.0.0.1:1",
    *,
    changes: Mapping[str, str] | None = None,
    defaults: str = HOSTILE,
) -> Iterator[Nginx]:
    """Run nginx with the README's block in front of two servers.

    Args:
        directory: for its configuration, logs and temporary files.
        a: the URL of the server that is called a.
        b: that of b; by default nobody listens there.
        changes: further texts of the block to replace.
        defaults: what its nginx.conf sets for all servers.
    """
    port = free_port()
    ports = {
        "listen 80;": f"listen 127.0.0.1:{port};",
        f"server {UPSTREAM_A};": f"server {a.removeprefix('http://')};",
        f"server {UPSTREAM_B};": f"server {b.removeprefix('http://')};",
    }
    block = adapted(readme_block(), ports | dict(changes or {}))
    (directory / "webkit.conf").write_text(block)
    # As root, its workers would be somebody who may not enter the directory.
    user = "" if os.geteuid() else f"user {getpass.getuser()};"
    main = MAIN.format(user=user, directory=directory, defaults=defaults)
    (directory / "nginx.conf").write_text(main)
    command = [find_nginx(), "-e", "stderr", "-p", str(directory), "-c", "nginx.conf"]
    nginx = Nginx(command, port)
    try:
        nginx.wait_up()
        yield nginx
    finally:
        nginx.stop()
    for level in ("[emerg]", "[alert]", "[crit]"):
        assert level not in nginx.output, nginx.output
