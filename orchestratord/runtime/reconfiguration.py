"""A configuration that is read again while the daemon runs.

Pools, the queue's rules and what a new session is allowed are taken over at once:
they are asked for anew with each task.  A session keeps the terms it began with.
Everything else is built into what runs, so that a change of it is named and waits
for a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import structlog
from pydantic import BaseModel

from contracts.config import Config
from contracts.service.settings import Settings
from orchestratord.domain.budgets import BILLION, Limits
from orchestratord.domain.decisions import QueueRules
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.sessions import SessionTerms
from orchestratord.runtime.dispatcher import Dispatcher

log = structlog.get_logger()

TAKEN_OVER = frozenset({"pools", "queue"})
"""Sections that are obeyed as soon as they are read; of `sessions` all but the price."""
PRICE = "cost_per_1k_tokens"
NOT_OURS = frozenset({"pool_managerd"})


class Configured:
    """What is obeyed now: one for the daemon, read by admission and by what is told of limits."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.specs = [PoolSpec.of(pool) for pool in config.pools]


class Reconfiguration:
    """The one place that changes what is configured."""

    def __init__(
        self,
        configured: Configured,
        settings: Settings,
        scheduler: Scheduler,
        dispatcher: Dispatcher,
    ) -> None:
        self._configured = configured
        self._settings = settings
        self._scheduler = scheduler
        self._dispatcher = dispatcher

    async def reload(self, settings: Settings) -> None:
        """Obey freshly read settings as far as that can be done without a restart."""
        configured, wanted = self._configured, settings.config
        pending = sorted(self._pending(settings))
        sessions = wanted.sessions.model_copy(
            update={PRICE: configured.config.sessions.cost_per_1k_tokens}
        )
        before = {spec.pool_id: spec for spec in configured.specs}
        configured.config = configured.config.model_copy(
            update={"pools": wanted.pools, "queue": wanted.queue, "sessions": sessions}
        )
        configured.specs[:] = [PoolSpec.of(pool) for pool in wanted.pools]
        after = {spec.pool_id: spec for spec in configured.specs}
        self._scheduler.configure(after, queue_rules(configured.config))
        self._scheduler.sessions.defaults = session_terms(configured.config)
        self._dispatcher.respecify(configured.specs)
        log.info(
            "config_reloaded",
            pools_added=sorted(after.keys() - before.keys()),
            pools_removed=sorted(before.keys() - after.keys()),
            pools_changed=sorted(p for p in after.keys() & before.keys() if after[p] != before[p]),
        )
        if pending:
            log.warning("config_needs_restart", keys=pending)

    def _pending(self, settings: Settings) -> Iterator[str]:
        """The keys whose new values wait for a restart."""
        old, new = self._settings.config, settings.config
        for section in Config.model_fields:
            if section in TAKEN_OVER or section in NOT_OURS:
                continue
            keys = _differing(section, getattr(old, section), getattr(new, section))
            if section == "sessions":
                keys = (key for key in keys if key == f"sessions.{PRICE}")
            yield from keys
        if (old.auth, old.state_dir) == (new.auth, new.state_dir) and (
            settings.token.reveal() != self._settings.token.reveal()
        ):
            yield "auth.token_file"


def queue_rules(config: Config) -> QueueRules:
    """The queue's rules as the scheduler takes them."""
    queue = config.queue
    return QueueRules(queue.capacity, queue.policy, queue.batch_max_wait_ms / 1000)


def session_terms(config: Config) -> SessionTerms:
    """What a session is allowed that nobody has written settings for."""
    sessions, cost = config.sessions, config.sessions.budget_cost
    limits = Limits(
        tokens=sessions.budget_tokens,
        time_ms=sessions.budget_time_ms,
        cost=None if cost is None else round(cost * BILLION),
    )
    return SessionTerms(sessions.ttl_ms, sessions.max_turns, limits)


def _differing(key: str, old: Any, new: Any) -> Iterator[str]:
    """The dotted keys under `key` that have another value."""
    if old == new:
        return
    if isinstance(old, BaseModel) and type(old) is type(new):
        for name in type(old).model_fields:
            yield from _differing(f"{key}.{name}", getattr(old, name), getattr(new, name))
    else:
        yield key
