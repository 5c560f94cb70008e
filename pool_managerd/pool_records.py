"""What was changed of a pool while the daemon ran, on disk: a reload outlives a restart.

One file per pool under `run/pools`, 0600, renamed into place.  It holds for as long
as the configuration names the model that it named then: who edits the file means it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from contracts.config import ModelConfig, Pool


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """A pool that is not as configured: another model, other numbers, or drained."""

    configured_ref: str
    configured_digest: str | None
    ref: str
    digest: str | None
    draining: bool
    numbers: tuple[int, ...]

    def applied(self, configured: Pool) -> Pool:
        """The pool as it is to be served."""
        model = ModelConfig(id=configured.model.id, ref=self.ref, digest=self.digest)
        return configured.model_copy(update={"model": model})


class PoolRecords:
    """The records of one state directory; every method does short file I/O."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "run" / "pools"

    def write(self, pool_id: str, record: PoolRecord) -> None:
        """Write or replace the record of a pool."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(pool_id)
        fresh = path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(asdict(record)))
        fresh.rename(path)

    def read(self, configured: Pool) -> PoolRecord | None:
        """The record of a pool, if it still speaks of the pool as configured."""
        path = self._path(configured.id)
        try:
            record = msgspec.json.decode(path.read_bytes(), type=PoolRecord)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            self.remove(configured.id)
            return None
        named = (record.configured_ref, record.configured_digest)
        if named != (configured.model.ref, configured.model.digest):
            return None
        return record

    def remove(self, pool_id: str) -> None:
        """Forget what was changed."""
        with contextlib.suppress(FileNotFoundError):
            self._path(pool_id).unlink()

    def _path(self, pool_id: str) -> Path:
        return self._directory / f"{pool_id}.json"
