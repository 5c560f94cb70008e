"""An engine process that runs, whoever started it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pool_managerd.adoption import Survivor
from pool_managerd.launch import HOST, Launch
from pool_managerd.process import ReplicaProcess
from pool_managerd.replica import Endpoint
from pool_managerd.run_records import LaunchFacts


@dataclass(frozen=True, slots=True)
class Running:
    """A process, and what there is to know of its launch."""

    process: ReplicaProcess
    facts: LaunchFacts
    api_key: str = field(repr=False)
    adopted: bool

    @classmethod
    def adopted_from(cls, survivor: Survivor, process: ReplicaProcess) -> Running:
        """One that an earlier start of this daemon left."""
        return cls(process, survivor.record.launch, survivor.api_key, adopted=True)

    @property
    def endpoint(self) -> Endpoint:
        """Where it serves, with the key of its launch."""
        return Endpoint(f"http://{HOST}:{self.facts.port}", self.api_key)

    @property
    def model(self) -> Path:
        """Its model, a file or a directory."""
        return Path(self.facts.model)


def facts_of(
    launch: Launch, fingerprint: str, program: str, stamp: str, launched_ms: int
) -> LaunchFacts:
    """What is recorded of a launch; `stamp` of its model, `launched_ms` in Unix ms."""
    return LaunchFacts(
        fingerprint=fingerprint,
        port=launch.spec.port,
        model=str(launch.model),
        model_stamp=stamp,
        program=program,
        device_uuids=launch.spec.device_uuids,
        launched_ms=launched_ms,
        end_argv=launch.plan.end_argv,
    )
