"""What was changed of a pool while the daemon ran, on disk: a reload outlives a restart.

One file per pool under `run/pools`, 0600, renamed into place.  It holds for as long
as the configuration names the model that it named then: who edits the file means it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from contracts.config import ModelConfig, Pool
from pool_managerd.record_files import replace_file


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
        replace_file(self._path(pool_id), msgspec.json.encode(asdict(record)))

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
        self._path(pool_id).unlink(missing_ok=True)

    def _path(self, pool_id: str) -> Path:
        return self._directory / f"{pool_id}.json"
