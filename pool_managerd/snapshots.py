"""The snapshot everybody reads: versioned, built when somebody looks.

A change only marks the snapshot as old; the next reader builds the new one, and
all readers of one version share its bytes.  A watcher waits for a version newer
than the one it has, so a slow one skips what it missed and never queues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from contracts.ids import new_uuid
from contracts.pools import DeviceView, PoolView, Snapshot
from pool_managerd.clock import Clock


@dataclass(frozen=True, slots=True)
class Parts:
    """What a snapshot is made of, besides its version."""

    pools: tuple[PoolView, ...]
    devices: tuple[DeviceView, ...]
    devices_age_ms: int | None


class SnapshotBoard:
    """The newest snapshot; `build` gives its parts as of now."""

    def __init__(self, build: Callable[[], Parts], clock: Clock) -> None:
        self._build = build
        self._clock = clock
        self._instance_id = new_uuid()
        self._version = 1
        self._snapshot: Snapshot | None = None
        self._json = b""
        self._newer = anyio.Event()

    def changed(self) -> None:
        """Something a snapshot shows is different now."""
        if self._snapshot is None:
            return
        # Nobody has seen what is not built: the version rises once per snapshot read.
        self._version += 1
        self._snapshot = None
        self._newer.set()
        self._newer = anyio.Event()

    def current(self) -> Snapshot:
        """The state as of now."""
        if self._snapshot is None:
            parts = self._build()
            self._snapshot = Snapshot(
                version=self._version,
                instance_id=self._instance_id,
                at_ms=self._clock.unix_ms(),
                pools=parts.pools,
                devices=parts.devices,
                devices_age_ms=parts.devices_age_ms,
            )
            self._json = self._snapshot.__pydantic_serializer__.to_json(self._snapshot)
        return self._snapshot

    def current_json(self) -> tuple[int, bytes]:
        """The version and the JSON of the state as of now."""
        return self.current().version, self._json

    async def wait_newer(self, version: int) -> None:
        """Return once the state is newer than `version`."""
        while self._version <= version:
            await self._newer.wait()
