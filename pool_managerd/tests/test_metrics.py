"""Figures are those of the snapshot, and what is not known has none."""

from __future__ import annotations

from dataclasses import dataclass, field

from contracts.config import Pool
from contracts.pools import DeviceView, PoolView, ReplicaState, ReplicaView
from contracts.service.prometheus import MetricsRegistry
from pool_managerd.clock import SystemClock
from pool_managerd.domain.health import pool_view
from pool_managerd.domain.restart import Breaker
from pool_managerd.metrics import PoolMetrics
from pool_managerd.snapshots import Parts, SnapshotBoard

POOL = Pool.model_validate(
    {
        "id": "p",
        "engine": "llamacpp",
        "model": {"id": "m", "ref": "file:/m"},
        "provisioning": {"mode": "embedded"},
    },
    strict=False,
)
CARD = DeviceView(index=0, uuid="GPU-a", name="Card", total_bytes=100, used_bytes=None, health="ok")
FIGURES = ("kv_cache_usage_ratio{", "vram_used_bytes{")


def replica(number: int = 0, **fields: object) -> ReplicaView:
    known: dict[str, object] = {
        "replica_id": f"p/{number}",
        "state": ReplicaState.READY,
        "devices": (),
        "base_url": None,
        "engine_version": None,
        "model_digest": None,
        "ctx": None,
        "slots_total": 1,
        "slots_used": 0,
        "restarts": 0,
        "last_error": None,
        "kv_cache_usage": None,
    }
    return ReplicaView.model_validate(known | fields)


def told(*replicas: ReplicaView) -> PoolView:
    return pool_view(POOL, replicas, [Breaker.CLOSED] * len(replicas))


@dataclass
class Scraped:
    """`/metrics` over a snapshot that a test writes."""

    parts: Parts
    board: SnapshotBoard = field(init=False)
    metrics: PoolMetrics = field(init=False)

    def __post_init__(self) -> None:
        self.board = SnapshotBoard(lambda: self.parts, SystemClock())
        self.metrics = PoolMetrics(MetricsRegistry("pool_managerd"), self.board, {})

    def text(self, parts: Parts) -> str:
        self.parts = parts
        self.board.changed()
        return self.metrics.render().decode()


def test_a_figure_that_cannot_be_had_is_absent_and_never_zero() -> None:
    """LO-MET-006."""
    unknown = Parts((told(replica()),), (CARD,), 0)
    known = Parts(
        (told(replica(kv_cache_usage=0.5)),), (CARD.model_copy(update={"used_bytes": 7}),), 0
    )
    scraped = Scraped(unknown)
    for parts, shown in ((unknown, False), (known, True), (unknown, False)):
        text = scraped.text(parts)
        assert [figure in text for figure in FIGURES] == [shown, shown]
        assert 'vram_total_bytes{device="GPU-a"} 100.0' in text


def test_what_an_engine_tells_of_its_requests_is_shown_and_else_absent() -> None:
    """LO-MET-006."""
    scraped = Scraped(Parts((told(replica()),), (), None))
    names = ("engine_requests_running{", "engine_requests_waiting{", "kv_cache_evictions_total{")
    text = scraped.text(scraped.parts)
    assert not any(name in text for name in names)
    known = replica(requests_running=2, requests_waiting=0, kv_evictions=5)
    text = scraped.text(Parts((told(known),), (), None))
    assert 'engine_requests_running{pool_id="p",replica_id="p/0"} 2.0' in text
    assert 'engine_requests_waiting{pool_id="p",replica_id="p/0"} 0.0' in text
    text = scraped.text(Parts((told(replica()),), (), None))
    assert not any(name in text for name in names[:2])


def test_evictions_are_counted_on_over_restarts_of_the_engine() -> None:
    """LO-MET-006: an engine counts from its own start."""
    scraped = Scraped(Parts((), (), None))
    series = 'kv_cache_evictions_total{pool_id="p",replica_id="p/0"}'
    for count, shown in ((0, 0.0), (5, 5.0), (7, 7.0), (2, 9.0), (2, 9.0)):
        text = scraped.text(Parts((told(replica(kv_evictions=count)),), (), None))
        assert f"{series} {shown}" in text


def test_a_card_that_is_gone_takes_its_figures_with_it() -> None:
    """LO-MET-006."""
    scraped = Scraped(Parts((), (CARD,), 0))
    assert "vram_total_bytes{" in scraped.text(Parts((), (CARD,), 0))
    assert "vram_total_bytes{" not in scraped.text(Parts((), (), 0))


def test_cards_have_an_age_where_there_is_a_source_and_xids_are_counted_on() -> None:
    """LO-MET-006, LO-MET-004."""
    errors = {("GPU-a", "79"): 2}
    scraped = Scraped(Parts((), (), None))
    scraped.metrics = PoolMetrics(MetricsRegistry("pool_managerd"), scraped.board, {}, errors)
    assert "gpu_sample_age_seconds{" not in scraped.text(Parts((), (), None))
    text = scraped.text(Parts((), (CARD,), 1500))
    assert 'gpu_sample_age_seconds{device="GPU-a"} 1.5' in text
    assert 'gpu_xid_errors_total{device="GPU-a",xid="79"} 2.0' in text
    errors["GPU-a", "79"] = 3
    assert 'xid="79"} 3.0' in scraped.text(Parts((), (CARD,), 1500))
