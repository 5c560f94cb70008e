"""The sha256 of a model, computed beside everything else and remembered.

A model of 20 GB takes a minute to hash, so it is done in a worker thread, one at a
time, while the engine loads.  The result is kept in the state directory under the
model's stamp, which is (device, inode, size, mtime) of a file, and of a directory the
hash of those of all its files: what was not written to is not read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
import msgspec

from pool_managerd.models.model_tree import files_of, tree_digest

CHUNK_BYTES = 4 * 1024 * 1024
CACHE_ENTRIES_MAX = 256


class ModelDigests:
    """Digests of models, as `sha256:` and 64 hex digits; of a directory see `model_tree`."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "model-digests.json"
        self._known: dict[str, str] | None = None
        self._one_at_a_time = anyio.Lock()

    async def of(self, model: Path) -> str:
        """The digest of `model`; waits for its turn.

        Raises:
            OSError: it cannot be read, or was written to while it was.
        """
        async with self._one_at_a_time:
            halt = threading.Event()
            try:
                return await anyio.to_thread.run_sync(
                    self._digest, model, halt, abandon_on_cancel=True
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
        status = model.stat()
        if not model.is_dir():
            return _identity(status)
        lines = (f"{_identity(file.path.stat())} {file.name}\n" for file in files_of(model))
        return f"tree:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"

    def _digest(self, model: Path, halt: threading.Event) -> str:
        if self._known is None:
            self._known = self._read()
        stamp = self.stamp(model)
        if stamp in self._known:
            return self._known[stamp]

        def hash_of(content: BinaryIO) -> str:
            digest = hashlib.sha256()
            while chunk := content.read(CHUNK_BYTES):
                if halt.is_set():
                    raise OSError("hashing was stopped")
                digest.update(chunk)
            return digest.hexdigest()

        if model.is_dir():
            digest = tree_digest(files_of(model), hash_of)
        else:
            with model.open("rb") as content:
                digest = hash_of(content)
        if self.stamp(model) != stamp:
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


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
