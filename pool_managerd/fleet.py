"""Every replica there is, each with its supervisor; replicas come and go with reloads."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial

import anyio
from anyio.abc import TaskGroup

from contracts.config import External
from pool_managerd.adoption import Survivor
from pool_managerd.domain.restart import Breaker
from pool_managerd.external_life import ExternalLife
from pool_managerd.launch_tools import LaunchTools
from pool_managerd.life import Life
from pool_managerd.process_life import ProcessLife
from pool_managerd.replica import Replica, ReplicaEntry
from pool_managerd.restart_records import RestartRecords
from pool_managerd.supervisor import Supervisor


class Fleet:
    """The one owner of replicas and supervisors.

    Args:
        replicas: filled and emptied here, read by others.
        survivors: processes to take back, by replica id; each is taken once.
        group: runs the supervisors.
    """

    def __init__(
        self,
        replicas: dict[str, Replica],
        tools: LaunchTools,
        survivors: Mapping[str, Survivor],
        changed: Callable[[Replica], None],
        group: TaskGroup,
    ) -> None:
        self._replicas = replicas
        self._tools = tools
        self._survivors = dict(survivors)
        self._changed = changed
        self._group = group
        self._supervisors: dict[str, Supervisor] = {}
        self._chance = random.SystemRandom().random

    def add(self, entry: ReplicaEntry, *, on_trial: bool = False) -> Supervisor:
        """Begin to keep a replica of this entry serving."""
        assert entry.replica_id not in self._replicas
        replica = Replica(entry, self._tools.clock, self._changed)
        cut_off = partial(self._tools.leasing.cut_off, entry.replica_id)
        supervisor = Supervisor(
            replica,
            self._life(replica),
            self._tools.clock,
            self._chance,
            cut_off,
            records=RestartRecords(self._tools.state_dir),
            on_trial=on_trial,
        )
        self._replicas[entry.replica_id] = replica
        self._supervisors[entry.replica_id] = supervisor
        self._group.start_soon(supervisor.run)
        return supervisor

    async def remove(self, replica_id: str) -> None:
        """Stop a replica and forget it; returns once nothing of it runs."""
        supervisor = self._supervisors[replica_id]
        await supervisor.stop()
        self._tools.leasing.cut(replica_id)
        del self._supervisors[replica_id], self._replicas[replica_id]
        self._changed(supervisor.replica)

    async def stop(self) -> None:
        """Stop every replica, all at once."""
        async with anyio.create_task_group() as group:
            for supervisor in self._supervisors.values():
                group.start_soon(supervisor.stop)

    def supervisor(self, replica_id: str) -> Supervisor:
        """The supervisor of a replica."""
        return self._supervisors[replica_id]

    def of(self, pool_id: str) -> list[Replica]:
        """The replicas of a pool, those that come or go in a reload included."""
        return [r for r in self._replicas.values() if r.entry.pool.id == pool_id]

    def breakers(self, pool_id: str) -> list[Breaker]:
        """Of the same replicas, in the same order."""
        return [self._supervisors[r.entry.replica_id].budget.breaker for r in self.of(pool_id)]

    def free_number(self, pool_id: str, index: int, entries: int) -> int:
        """A number for one more replica of an entry of a pool with so many entries."""
        taken = {replica.entry.replica_id for replica in self.of(pool_id)}
        number = index
        while f"{pool_id}/{number}" in taken:
            number += entries
        return number

    def _life(self, replica: Replica) -> Life:
        if isinstance(replica.entry.pool.provisioning, External):
            return ExternalLife(replica, self._tools)
        survivor = self._survivors.pop(replica.entry.replica_id, None)
        return ProcessLife(replica, self._tools, survivor)
