"""Who our engine processes are, on disk, for a start of this daemon after a kill.

One file per replica under `run/replicas`, named for it.  The key of a launch stands
nowhere on disk: only its hash does, and `pool_managerd.adoption` reads the
key itself from the environment of the process that was given it.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from pool_managerd.procfs import boot_id, process_stat
from pool_managerd.record_files import file_stem, replace_file


@dataclass(frozen=True, slots=True)
class LaunchFacts:
    """What another start of this daemon has to know of a launch to go on with it.

    `fingerprint` tells whether the configuration still asks for this very launch;
    `model_stamp` which file it loaded, whatever lies there by now.
    """

    fingerprint: str = ""
    port: int = 0
    model: str = ""
    model_stamp: str = ""
    program: str = ""
    device_uuids: tuple[str, ...] = ()
    launched_ms: int = 0
    end_argv: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """The identity of a replica's process group, and what it was launched as."""

    replica_id: str
    pid: int
    group: int
    start_ticks: int
    boot_id: str
    api_key_sha256: str
    launch: LaunchFacts = LaunchFacts()


def identify(
    replica_id: str, pid: int, api_key: str, launch: LaunchFacts | None = None
) -> ProcessRecord:
    """The record of a process just started, the leader of its own group.

    A leader that is dead already has no start time left to read; 0 is none's.
    """
    stat = process_stat(pid)
    return ProcessRecord(
        replica_id=replica_id,
        pid=pid,
        group=pid,
        start_ticks=0 if stat is None else stat.start_ticks,
        boot_id=boot_id(),
        api_key_sha256=hash_of(api_key.encode()),
        launch=launch or LaunchFacts(),
    )


def hash_of(key: bytes) -> str:
    """What a record keeps of a key."""
    return hashlib.sha256(key).hexdigest()


class RunRecords:
    """The records of one state directory; every method does short file I/O."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "run" / "replicas"

    def write(self, record: ProcessRecord) -> None:
        """Write or replace the record of a replica."""
        replace_file(self._path(record.replica_id), msgspec.json.encode(asdict(record)))

    def remove(self, replica_id: str) -> None:
        """Forget a replica's process; forgetting twice is no error."""
        self._path(replica_id).unlink(missing_ok=True)

    def read_all(self) -> list[ProcessRecord]:
        """Every record; a file that is not one is removed."""
        records = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                records.append(msgspec.json.decode(path.read_bytes(), type=ProcessRecord))
            except msgspec.DecodeError:
                path.unlink(missing_ok=True)
        return records

    def _path(self, replica_id: str) -> Path:
        return self._directory / f"{file_stem(replica_id)}.json"
