from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from webkit_core.last_words import MAX_LINE_CHARS, MAX_LINES, LastWords


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "stderr"
    os.mkfifo(path)
    return path


def said(*parts: bytes) -> str:
    words = LastWords()
    for part in parts:
        words.feed(part)
    return str(words)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], ""),
        ([b"one\ntwo\n"], "one\ntwo"),
        ([b"on", b"e\ntw", b"o"], "one\ntwo"),
        ([b"no end"], "no end"),
        ([b"\n\n  \none\r\n\n"], "one"),
        ([b"caf\xe9 \xff\n"], "caf\ufffd \ufffd"),
        ([b"caf\xc3", b"\xa9\n"], "café"),
    ],
)
def test_words_are_lines_however_they_come(parts: list[bytes], text: str) -> None:
    assert said(*parts) == text


def test_lines_beyond_the_number_are_forgotten_oldest_first() -> None:
    lines = said(b"".join(b"%d\n" % n for n in range(MAX_LINES + 5))).splitlines()

    assert (len(lines), lines[0], lines[-1]) == (MAX_LINES, "5", f"{MAX_LINES + 4}")
    open_line = said(b"x\n" * MAX_LINES + b"the last").splitlines()
    assert (len(open_line), open_line[-1]) == (MAX_LINES, "the last")


@pytest.mark.parametrize("end", [b"", b"\nnext"])
def test_long_line_is_cut_and_takes_no_memory(end: bytes) -> None:
    words = LastWords()
    for _ in range(1000):
        words.feed(b"x" * 65_536)
        assert len(words._line) <= 4 * MAX_LINE_CHARS
    words.feed(end)

    assert str(words).splitlines()[0] == "x" * MAX_LINE_CHARS
    assert str(words).endswith(end.decode().strip() or "x")


@pytest.fixture
def writer(pipe: Path) -> Iterator[list[int]]:
    """File descriptors that are closed in the end."""
    opened: list[int] = []
    yield opened
    for fd in opened:
        os.close(fd)


async def test_pipe_is_read_as_it_fills(pipe: Path, writer: list[int]) -> None:
    """Ten times what it holds: whoever writes is never held up for good."""
    words = LastWords(pipe)
    writer.append(os.open(pipe, os.O_WRONLY))
    for number in range(10):
        line = b"%d %s\n" % (number, b"x" * 65_000)
        await asyncio.to_thread(os.write, writer[0], line)

    assert str(words).splitlines()[-1].startswith("9 x")
    words.close()


async def test_words_have_what_is_there_before_the_loop_has_seen_it(
    pipe: Path, writer: list[int]
) -> None:
    words = LastWords(pipe)
    writer.append(os.open(pipe, os.O_WRONLY))
    os.write(writer[0], b"the last")

    assert str(words) == "the last"

    os.write(writer[0], b" words")
    words.close()
    words.close()
    assert str(words) == "the last words"


async def test_end_of_the_pipe_does_not_keep_the_loop_busy(
    pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = LastWords(pipe)
    os.close(os.open(pipe, os.O_WRONLY))
    reads = 0
    read = words._read

    def counting() -> bool:
        nonlocal reads
        reads += 1
        return read()

    asyncio.get_running_loop().add_reader(words._fd, counting)
    for _ in range(50):
        await asyncio.sleep(0)

    assert reads <= 1
    words.close()
