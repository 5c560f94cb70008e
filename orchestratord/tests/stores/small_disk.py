"""A disk of 8 MiB that can be filled; mounting one needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DISK_BYTES = 8 * 1024 * 1024


@contextmanager
def mounted(directory: Path) -> Iterator[Path]:
    """A disk of its own at `directory`; skips the test where none can be mounted."""
    directory.mkdir()
    options = f"size={DISK_BYTES},mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        pytest.skip("the command `mount` is missing")
    if made.returncode != 0:
        pytest.skip(f"the right to mount a tmpfs is missing: {made.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], timeout=10, check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """No block of `disk` is free for as long as the block lasts."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            fill(file.write)
        yield
    finally:
        filler.unlink()


def fill(write: object) -> None:
    assert callable(write)
    try:
        while True:
            write(bytes(4096))
    except OSError:
        pass
