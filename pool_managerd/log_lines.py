"""A log as lines that can be shown: whole, bounded, printable, without a key."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable

import anyio
import anyio.to_thread

from pool_managerd.replica_log import ReplicaLog

SHOWN_CHARACTERS_MAX = 4_000
HELD_BYTES_MAX = 4 * SHOWN_CHARACTERS_MAX + 1_024
"""Kept of a line that has not ended: what is shown of it, and a key that goes on beyond."""
LOOK_S = 0.2
LOST = "[... lines are missing here: they were written faster than they could be kept]"


class LineCutter:
    """Makes lines of pieces; a line is told once it has ended."""

    def __init__(self) -> None:
        self._open = b""

    def lines(self, content: bytes, keys: Iterable[str]) -> list[str]:
        """The lines that end in `content`."""
        *whole, rest = content.split(b"\n")
        if whole:
            whole[0] = self._open + whole[0]
            self._open = rest[:HELD_BYTES_MAX]
        else:
            self._open += rest[: HELD_BYTES_MAX - len(self._open)]
        return [_shown(line, keys) for line in whole]

    def rest(self, keys: Iterable[str]) -> list[str]:
        """The line that has not ended, where there is one."""
        held, self._open = self._open, b""
        return [_shown(held, keys)] if held else []


async def lines_of(
    log: Callable[[], ReplicaLog | None], position: int, follows: Callable[[], bool]
) -> AsyncGenerator[list[str], None]:
    """Lines from a position on, and what comes while `follows` is true; some at a time.

    Args:
        log: the log as of now: another one where the replica was made anew, and
            None where it is gone, which ends this too.
        position: where to begin, as `ReplicaLog.start_of_last` told it before anybody was
            answered: who reads the head of an answer misses nothing that comes after.
        follows: false from the beginning: nothing newer than now is told.
    """
    found, cutter = log(), LineCutter()
    if found is None:
        return
    end = await anyio.to_thread.run_sync(found.end)
    while follows() or position < end:
        piece = await anyio.to_thread.run_sync(found.read, position)
        lost = [LOST] if piece.position > position else []
        content = piece.content if follows() else piece.content[: max(0, end - piece.position)]
        position = piece.end
        lines = lost + cutter.lines(content, found.keys)
        if lines:
            yield lines
        if piece.content:
            continue
        now = log()
        if now is None or not follows():
            break
        if now is not found:
            # The same file under another count: go on where we were, seen from its end.
            unread = found.end() - position
            position, found = now.end() - unread, now
        else:
            await anyio.sleep(LOOK_S)
    rest = cutter.rest(found.keys)
    if rest:
        yield rest


def _shown(line: bytes, keys: Iterable[str]) -> str:
    text = line[:HELD_BYTES_MAX].decode(errors="replace").rstrip()
    for key in keys:
        text = text.replace(key, "[redacted]")
    cut = text[:SHOWN_CHARACTERS_MAX].replace("\t", " ")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)
