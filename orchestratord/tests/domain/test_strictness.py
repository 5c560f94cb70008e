"""When a pool can promise equal bytes, and what is told where it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.errors import ErrorCode, Refusal
from contracts.pools import DeviceView, PoolView, ReplicaState, ReplicaView
from orchestratord.domain.admission import refuse_unproven
from orchestratord.domain.strictness import refusal_of_attempt, refusal_of_pool
from orchestratord.errors import StrictUnready, Unable
from orchestratord.tests.builders import (
    CHAT,
    DIGEST,
    abilities,
    device,
    pool_view,
    replica,
    task_request,
)

OTHER = "sha256:" + "1" * 64
STRICT = task_request(determinism="strict")
CARDS = [device(uuid, 24) for uuid in ("GPU-a", "GPU-b")]


def able(number: int = 0, *, devices: tuple[str, ...] = (), **changes: Any) -> ReplicaView:
    """A replica that promises for itself, but for `changes`."""
    found = replica(number, devices=devices, capabilities=abilities())
    return found.model_copy(update=changes)


def named(*names: str) -> list[DeviceView]:
    """Cards a and b, of these kinds."""
    return [d.model_copy(update={"name": name}) for d, name in zip(CARDS, names, strict=False)]


def reason(pool: PoolView, devices: list[DeviceView] | None = None) -> str:
    refusal = refusal_of_pool(pool, devices or [])
    assert refusal is not None
    assert not refusal.unready
    assert refusal.remedy
    return refusal.reason


def test_alike_replicas_that_promise_for_themselves_promise_together() -> None:
    """LO-ORC-169."""
    assert refusal_of_pool(pool_view(able(0), able(1)), []) is None
    on_cards = pool_view(able(0, devices=("GPU-a",)), able(1, devices=("GPU-b",)))
    assert refusal_of_pool(on_cards, named("RTX 3090", "RTX 3090")) is None
    refuse_unproven(STRICT, CHAT, on_cards, named("RTX 3090", "RTX 3090"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"capabilities": None}, "replica chat/1 has not told what it can do"),
        (
            {"capabilities": abilities(strict_refusal="2 slots share a batch; set slots: 1")},
            "replica chat/1: 2 slots share a batch; set slots: 1",
        ),
        ({"engine_version": None}, "the engine version of replica chat/1 is not known"),
        ({"model_digest": None}, "the model digest of replica chat/1 is not known"),
        ({"engine_version": "b200"}, "replicas chat/0 and chat/1 have unlike engine versions"),
        ({"model_digest": OTHER}, "replicas chat/0 and chat/1 have unlike models"),
        (
            {"capabilities": abilities(settings_digest="b" * 64)},
            "replicas chat/0 and chat/1 were launched with unlike settings",
        ),
    ],
)
def test_one_replica_that_does_not_fit_is_enough_to_refuse(
    changes: dict[str, Any], why: str
) -> None:
    """LO-ORC-169, LO-ORC-170."""
    found = reason(pool_view(able(0), able(1, **changes)))
    assert found.startswith(why)
    with pytest.raises(Unable) as refused:
        refuse_unproven(STRICT, CHAT, pool_view(able(0), able(1, **changes)), [])
    assert refused.value.code is ErrorCode.INVALID_PARAMS
    assert refused.value.details == {"field": "determinism", "reason": found}
    assert refused.value.message.count(";") >= 1, "the remedy"
    refuse_unproven(task_request(), CHAT, pool_view(able(0), able(1, **changes)), [])


def test_cards_of_another_kind_are_unlike() -> None:
    """LO-ORC-169."""
    both = pool_view(able(0, devices=("GPU-a",)), able(1, devices=("GPU-b",)))
    why = reason(both, named("RTX 3090", "RTX 3060"))
    assert why == "replicas chat/0 and chat/1 have unlike cards, RTX 3090 and RTX 3060"
    one = pool_view(able(0, devices=("GPU-a",)), able(1))
    assert "RTX 3090 and CPU" in reason(one, named("RTX 3090"))
    assert reason(one) == "card GPU-a is not known by name"
    wide = pool_view(able(0, devices=("GPU-a", "GPU-b")), able(1, devices=("GPU-b", "GPU-a")))
    assert "unlike cards" in reason(wide, named("RTX 3090", "RTX 3060")), "their order counts"


def test_what_does_not_serve_speaks_neither_for_nor_against() -> None:
    """LO-ORC-169, LO-ORC-170."""
    down = able(1, state=ReplicaState.STARTING, engine_version="b200", capabilities=None)
    assert refusal_of_pool(pool_view(able(0), down), []) is None
    refusal = refusal_of_pool(pool_view(down), [])
    assert refusal is not None
    assert refusal.unready
    for view in (pool_view(down), None):
        with pytest.raises(StrictUnready) as refused:
            refuse_unproven(STRICT, CHAT, view, [])
        assert (refused.value.code, refused.value.retriable) == (ErrorCode.POOL_UNREADY, True)
        assert refused.value.details is not None
        assert "no replica serves yet" in refused.value.details["reason"]
        assert isinstance(refused.value, Refusal)


def test_an_attempt_goes_elsewhere_where_its_replica_alone_promises_nothing() -> None:
    """LO-ORC-172."""
    here = able(0, capabilities=None)
    found = refusal_of_attempt(pool_view(here, able(1)), here, [])
    assert found is not None
    assert found.elsewhere
    assert refusal_of_attempt(pool_view(here, able(1)), able(1), []) is None
    alone = refusal_of_attempt(pool_view(here, able(1, model_digest=None)), here, [])
    assert alone is not None
    assert not alone.elsewhere


def test_an_attempt_among_unlike_replicas_has_no_better_place_to_go() -> None:
    """LO-ORC-172: each by itself would do, so that a task would go to and fro for ever."""
    view = pool_view(able(0), able(1, model_digest=OTHER))
    for tried in view.replicas:
        found = refusal_of_attempt(view, tried, [])
        assert found is not None
        assert not found.elsewhere
        assert "unlike models" in found.refusal.reason
    assert DIGEST in str(found and found.refusal)
