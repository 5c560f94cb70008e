"""All pools, as the configuration has them now."""

from __future__ import annotations

import structlog

from contracts.config import Config
from contracts.pools import PoolView
from pool_managerd.managed_pool import ManagedPool, PoolTools

PER_START = ("state_dir", "pool_managerd", "auth", "limits", "gpus", "observability", "policy")
"""What is read at the start and not again."""

_log = structlog.get_logger(__name__)


class Pools:
    """Every pool by its id, in the order of the configuration."""

    def __init__(self) -> None:
        self.by_id: dict[str, ManagedPool] = {}
        self._tools: PoolTools | None = None
        self._config: Config | None = None

    def open(self, config: Config, tools: PoolTools) -> None:
        """Begin to keep every pool of the configuration."""
        self._config, self._tools = config, tools
        for place, configured in enumerate(config.pools):
            record = tools.records.read(configured)
            self.by_id[configured.id] = ManagedPool(configured, place, config, tools, record)

    def views(self) -> tuple[PoolView, ...]:
        """What a snapshot shows."""
        return tuple(pool.view() for pool in self.by_id.values())

    def halt(self) -> None:
        """Leave off changing pools: the daemon is stopping."""
        for pool in self.by_id.values():
            pool.halt()

    async def apply(self, config: Config) -> None:
        """Go over to another configuration: only what differs is touched."""
        assert self._tools is not None
        assert self._config is not None
        for key in PER_START:
            if getattr(config, key) != getattr(self._config, key):
                _log.warning("config.needs_restart", key=key)
        self._config = config
        wanted = {pool.id: (place, pool) for place, pool in enumerate(config.pools)}
        for pool_id in [pool_id for pool_id in self.by_id if pool_id not in wanted]:
            gone = self.by_id.pop(pool_id)
            _log.info("pool.removed", pool_id=pool_id)
            self._tools.group.start_soon(gone.close)
        for pool_id, (place, configured) in wanted.items():
            known = self.by_id.get(pool_id)
            if known is None:
                _log.info("pool.added", pool_id=pool_id)
                self.by_id[pool_id] = ManagedPool(configured, place, config, self._tools)
            elif known.configured != configured:
                _log.info("pool.changed", pool_id=pool_id)
                known.apply(configured, config)
        self._tools.changed()
