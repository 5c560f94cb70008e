"""How a replica failed so far, on disk: a restart of the daemon forgives nothing.

One file per replica under `run/restarts`, 0600, renamed into place, bounded by the
policy's `intensity`.  It counts for the launch that it was written of: a changed
configuration begins anew.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import structlog

from contracts.pools import FailureReason
from pool_managerd.domain.restart import RestartState
from pool_managerd.record_files import file_stem, replace_file

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RestartRecord:
    """What is kept of one replica."""

    fingerprint: str
    state: RestartState
    restarts: dict[FailureReason, int]


class RestartRecords:
    """The records of one state directory; every method does short file I/O."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "run" / "restarts"

    def write(self, replica_id: str, record: RestartRecord) -> None:
        """Write or replace the record of a replica; a disk that takes nothing is told of."""
        try:
            replace_file(self._path(replica_id), msgspec.json.encode(asdict(record)))
        except OSError as error:
            _log.warning("restarts.unrecorded", replica_id=replica_id, message=str(error))

    def read(self, replica_id: str, fingerprint: str) -> RestartRecord | None:
        """The record of a replica, if it was written of this launch."""
        path = self._path(replica_id)
        try:
            record = msgspec.json.decode(path.read_bytes(), type=RestartRecord)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("restarts.unreadable", file=str(path), message=str(error))
            return None
        return record if record.fingerprint == fingerprint else None

    def _path(self, replica_id: str) -> Path:
        return self._directory / f"{file_stem(replica_id)}.json"
