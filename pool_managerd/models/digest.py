"""The sha256 of a model, computed beside everything else and remembered.

A model of 20 GB takes a minute to hash, so it is done in a worker thread, one at a
time, while the engine loads.  The result is kept in the state directory under the
model's stamp, which is (device, inode, size, mtime) of a file, and of a directory or of
a model in several files the hash of those of all files: what was not written to is not
read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
import msgspec

from pool_managerd.models.model_tree import TreeFile, files_of, parts_of, tree_digest

CHUNK_BYTES = 4 * 1024 * 1024
CACHE_ENTRIES_MAX = 256

Files = Callable[[Path], list[TreeFile] | None]
"""The files that a model consists of; None: it is one."""


class ModelDigests:
    """Digests of models, as `sha256:` and 64 hex digits; of a directory see `model_tree`."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "model-digests.json"
        self._known: dict[str, str] | None = None
        self._one_at_a_time = anyio.Lock()

    async def of(self, model: Path) -> str:
        """The digest of `model`, of a split one with all its parts; waits for its turn.

        Raises:
            OSError: it cannot be read, or was written to while it was.
        """
        return await self._in_turn(model, _files)

    async def of_file(self, file: Path) -> str:
        """The digest of one file, whatever it is a part of.  Raises as `of` does."""
        return await self._in_turn(file, _alone)

    async def _in_turn(self, model: Path, files: Files) -> str:
        async with self._one_at_a_time:
            halt = threading.Event()
            try:
                return await anyio.to_thread.run_sync(
                    self._digest, model, files, halt, abandon_on_cancel=True
                )
            finally:
                halt.set()

    async def known(self, stamp: str) -> str | None:
        """The digest of what had this stamp, if it was ever computed; reads nothing else."""
        if self._known is None:
            self._known = await anyio.to_thread.run_sync(self._read)
        return self._known.get(stamp)

    @staticmethod
    def stamp(model: Path) -> str:
        """What changes whenever the model is written to or replaced; for a worker thread.

        Raises:
            OSError: it is not there.
        """
        return _stamp(model, _files(model))

    def _digest(self, model: Path, files: Files, halt: threading.Event) -> str:
        if self._known is None:
            self._known = self._read()
        stamp = _stamp(model, files(model))
        if stamp in self._known:
            return self._known[stamp]

        def hash_of(content: BinaryIO) -> str:
            digest = hashlib.sha256()
            while chunk := content.read(CHUNK_BYTES):
                if halt.is_set():
                    raise OSError("hashing was stopped")
                digest.update(chunk)
            return digest.hexdigest()

        several = files(model)
        if several is not None:
            digest = tree_digest(several, hash_of)
        else:
            with model.open("rb") as content:
                digest = hash_of(content)
        if _stamp(model, files(model)) != stamp:
            raise OSError(f"{model} was written to while it was read")
        self._remember(stamp, f"sha256:{digest}")
        return self._known[stamp]

    def _read(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def _remember(self, stamp: str, digest: str) -> None:
        assert self._known is not None
        self._known[stamp] = digest
        while len(self._known) > CACHE_ENTRIES_MAX:
            del self._known[next(iter(self._known))]
        fresh = self._path.with_suffix(".new")
        # A digest that cannot be kept is computed again at the next start.
        with contextlib.suppress(OSError):
            fresh.write_bytes(msgspec.json.encode(self._known))
            fresh.replace(self._path)


def _files(model: Path) -> list[TreeFile] | None:
    """All files of a directory or of a split model; None where it is one file."""
    return files_of(model) if model.is_dir() else parts_of(model) or None


def _alone(_: Path) -> None:
    """One file, whatever it is a part of."""


def _stamp(model: Path, files: list[TreeFile] | None) -> str:
    if files is None:
        return _identity(model.stat())
    lines = (f"{_identity(file.path.stat())} {file.name}\n" for file in files)
    return f"tree:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
