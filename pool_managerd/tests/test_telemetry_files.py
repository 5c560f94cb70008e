"""`gpus.source: file` where the path is no file."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from pool_managerd.clock import SystemClock
from pool_managerd.telemetry.file import FileSource
from pool_managerd.telemetry.sampler import Sampler

pytestmark = pytest.mark.anyio


async def test_a_pipe_in_place_of_the_file_hangs_nothing(tmp_path: Path) -> None:
    """To open a pipe waits for a writer, in a thread that no stop can end."""
    path = tmp_path / "gpus.json"
    os.mkfifo(path)
    changed = anyio.Event()
    sampler = Sampler(FileSource(path, sample_ms=20), SystemClock(), changed.set)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(sampler.run)
            path.with_suffix(".new").write_text('{"devices": []}')
            await anyio.sleep(0.1)  # by now a sample would hang in the pipe
            path.with_suffix(".new").rename(path)
            await changed.wait()
            group.cancel_scope.cancel()
