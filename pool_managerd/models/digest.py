"""The sha256 of a model file, computed beside everything else and remembered.

A model of 20 GB takes a minute to hash, so it is done in a worker thread, one
file at a time, while the engine loads.  The result is kept in the state directory
under (device, inode, size, mtime): a file that was not written to is not read
again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

CHUNK_BYTES = 4 * 1024 * 1024
CACHE_ENTRIES_MAX = 256


class ModelDigests:
    """Digests of model files, as `sha256:` and 64 hex digits."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "model-digests.json"
        self._known: dict[str, str] | None = None
        self._one_at_a_time = anyio.Lock()

    async def of(self, model: Path) -> str:
        """The digest of `model`; waits for its turn.

        Raises:
            OSError: the file cannot be read, or was written to while it was.
        """
        async with self._one_at_a_time:
            halt = threading.Event()
            try:
                return await anyio.to_thread.run_sync(
                    self._digest, model, halt, abandon_on_cancel=True
                )
            finally:
                halt.set()

    def _digest(self, model: Path, halt: threading.Event) -> str:
        if self._known is None:
            self._known = self._read()
        with model.open("rb") as file:
            key = _identity(os.fstat(file.fileno()))
            if key in self._known:
                return self._known[key]
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK_BYTES):
                if halt.is_set():
                    raise OSError("hashing was stopped")
                digest.update(chunk)
            if _identity(os.fstat(file.fileno())) != key:
                raise OSError(f"{model} was written to while it was read")
        self._remember(key, f"sha256:{digest.hexdigest()}")
        return self._known[key]

    def _read(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def _remember(self, key: str, digest: str) -> None:
        assert self._known is not None
        self._known[key] = digest
        while len(self._known) > CACHE_ENTRIES_MAX:
            del self._known[next(iter(self._known))]
        fresh = self._path.with_suffix(".new")
        # A digest that cannot be kept is computed again at the next start.
        with contextlib.suppress(OSError):
            fresh.write_bytes(msgspec.json.encode(self._known))
            fresh.replace(self._path)


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
