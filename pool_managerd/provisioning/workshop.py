"""Engines that are made on this machine: one at a time per recipe, kept under its key.

What is made is made in a directory of its own and renamed when it is whole, so that a
build that is killed leaves nothing that looks like one.  The programs that make it run
in a session of their own, at low priority, and go with whoever waits for them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from contracts.pools import FailureReason
from contracts.service.settings import child_environment, tool_environment
from pool_managerd.failure import LaunchRefused
from pool_managerd.process_group import end_group

BUILD_S = 4 * 3600.0
LINE_BYTES_MAX = 65_536
TAIL_LINES = 20
NICE = 10
LOCK_RETRY_S = 0.5
GRACE_MS = 2_000


def key_of(recipe: Mapping[str, object]) -> str:
    """Equal for equal recipes."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]


@asynccontextmanager
async def making(state_dir: Path, key: str) -> AsyncIterator[tuple[Path, Path | None]]:
    """The place of what has this key, and where to make it; None: it is made already.

    Whoever makes it moves it to its place with `finish`; what is left in the
    directory is removed.  Another process that makes the same is waited for.
    """
    engines = state_dir / "engines"
    place = engines / key
    await anyio.to_thread.run_sync(lambda: engines.mkdir(mode=0o700, parents=True, exist_ok=True))
    if place.exists():
        yield place, None
        return
    descriptor = os.open(engines / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        with anyio.fail_after(BUILD_S):
            while not _locked(descriptor):  # noqa: ASYNC110 - a lock of another process
                await anyio.sleep(LOCK_RETRY_S)
        if place.exists():
            yield place, None
            return
        await anyio.to_thread.run_sync(_clean, engines, key)
        room = Path(tempfile.mkdtemp(prefix=f"{key}.making-", dir=engines))
        try:
            yield place, room
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(room, ignore_errors=True))
    finally:
        os.close(descriptor)


def finish(made: Path, place: Path) -> None:
    """Put what is whole in its place."""
    made.rename(place)


async def run_tool(
    argv: Sequence[str],
    directory: Path,
    said: Callable[[str], None],
    env: Mapping[str, str] | None = None,
) -> None:
    """Run one program to its end; `said` hears each line it writes.

    Raises:
        LaunchRefused: it failed; with its last lines.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    process = await anyio.open_process(
        list(argv),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=child_environment({**tool_environment(), **(env or {})}),
        start_new_session=True,
    )
    try:
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.setpriority(os.PRIO_PGRP, process.pid, NICE)
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        with anyio.fail_after(BUILD_S):
            async for line in _lines(lines):
                tail.append(line)
                said(line)
            code = await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            await end_group(process.pid, GRACE_MS)
            with anyio.move_on_after(1.0):
                await process.aclose()
    if code != 0:
        words = "\n".join(tail)
        raise LaunchRefused(
            FailureReason.PROVISIONING_FAILED,
            f"`{Path(argv[0]).name} {argv[1] if len(argv) > 1 else ''}` ended with exit code"
            f" {code}; its last lines: {words[-1500:]}",
        )


async def _lines(stream: BufferedByteReceiveStream) -> AsyncIterator[str]:
    """Lines as they come; one without an end is cut."""
    while True:
        try:
            line = await stream.receive_until(b"\n", LINE_BYTES_MAX)
        except anyio.DelimiterNotFound:
            line = await stream.receive_exactly(LINE_BYTES_MAX)
        except (anyio.IncompleteRead, anyio.EndOfStream):
            if stream.buffer:
                yield stream.buffer.decode(errors="replace").rstrip()
            return
        yield line.decode(errors="replace").rstrip()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clean(engines: Path, key: str) -> None:
    """Remove what killed makers of this key left; the lock says that none lives."""
    for left in engines.glob(f"{key}.making-*"):
        shutil.rmtree(left, ignore_errors=True)
