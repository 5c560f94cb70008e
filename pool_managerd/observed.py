"""What an engine says of itself, held to what a snapshot can show."""

from __future__ import annotations

from dataclasses import replace

from worker_adapters.base import Observation

VERSION_CHARACTERS_MAX = 256


def within_bounds(seen: Observation) -> Observation:
    """The observation; a figure that cannot be is as good as none."""
    usage = seen.kv_cache_usage
    return replace(
        seen,
        engine_version=None
        if seen.engine_version is None
        else seen.engine_version[:VERSION_CHARACTERS_MAX],
        slots_busy=_count(seen.slots_busy),
        kv_cache_usage=usage if usage is not None and 0 <= usage <= 1 else None,
        requests_waiting=_count(seen.requests_waiting),
        cache_evictions=_count(seen.cache_evictions),
    )


def _count(figure: int | None) -> int | None:
    return figure if figure is not None and figure >= 0 else None
