"""A network of its own, and a wire to it that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

IP_S = 20
BLOCKS = 1 << 14


def ip(*arguments: str) -> None:
    """Run iproute2's ``ip``."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=IP_S)


class Wire:
    """From this host to a network namespace.

    Attributes:
        namespace: its name.
        address: the host's, at this end.
    """

    def __init__(self) -> None:
        number = os.getpid()
        self.namespace = f"webkit{number}"
        self.address, self._far_address = _addresses(number)
        self._near, self._far = f"wkn{number}", f"wkf{number}"

    def lay(self) -> None:
        """Make the wire and set it up; :meth:`remove` takes away what there is."""
        far = ("-n", self.namespace)
        ip("netns", "add", self.namespace)
        ip("link", "add", self._near, "type", "veth", "peer", "name", self._far)
        ip("link", "set", self._far, "netns", self.namespace)
        ip("addr", "add", f"{self.address}/30", "dev", self._near)
        ip("link", "set", self._near, "up")
        ip(*far, "addr", "add", f"{self._far_address}/30", "dev", self._far)
        ip(*far, "link", "set", self._far, "up")

    def cut(self) -> None:
        """Let nothing through from now on; nobody is told."""
        ip("-n", self.namespace, "link", "set", self._far, "down")

    def remove(self) -> None:
        for what in (("link", "del", self._near), ("netns", "del", self.namespace)):
            subprocess.run(["ip", *what], capture_output=True, timeout=IP_S)


def _addresses(number: int) -> tuple[str, str]:
    """Return two addresses of a block of their own in 198.18.0.0/16 (RFC 2544)."""
    high, low = divmod(4 * (number % BLOCKS), 256)
    return f"198.18.{high}.{low + 1}", f"198.18.{high}.{low + 2}"


@contextmanager
def laid_wire() -> Iterator[Wire]:
    """Lay a wire; skip where that cannot be, and fail in CI if it is for ``ip``."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a network namespace to lose a peer in")
    if shutil.which("ip") is None:
        message = "ip (iproute2) is needed to make a network that can lose a peer"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    wire = Wire()
    with ExitStack() as stack:
        stack.callback(wire.remove)
        try:
            wire.lay()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace can be made here: {error.stderr!r}")
        yield wire
