"""What a pool can be asked for: by its live replicas, and before any told, by its configuration."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.pools import PoolView, ReplicaState
from contracts.tasks import Workload
from orchestratord.domain.abilities import features, output_bound, refuse_senseless, told, workloads
from orchestratord.domain.admission import admitting_pools
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.sampling import sampling_of
from orchestratord.errors import PoolDraining, Unable
from orchestratord.tests.builders import CHAT, abilities, pool_view, replica, task_request

VECTORS = PoolSpec("vectors", "llamacpp", "tiny", "file:/models/tiny", 512, "embedding")
EMBED: dict[str, Any] = {"workload": "embedding", "inputs": ["a"], "prompt": None}
RERANK: dict[str, Any] = {"workload": "rerank", "inputs": ["q", "a"], "prompt": None}


def admitted(fields: dict[str, Any], *specs: PoolSpec, **views: PoolView) -> list[str]:
    request = task_request(**fields)
    pools = admitting_pools(request, sampling_of(request, {}), specs or (CHAT,), views)
    return [spec.pool_id for spec in pools]


def refusal(fields: dict[str, Any], *specs: PoolSpec, **views: PoolView) -> Unable:
    with pytest.raises(Unable) as refused:
        admitted(fields, *specs, **views)
    assert refused.value.code is ErrorCode.INVALID_PARAMS
    assert not refused.value.retriable
    return refused.value


def test_before_any_replica_told_a_pool_serves_what_it_is_configured_for() -> None:
    """LO-ORC-162."""
    assert workloads(CHAT, ()) == {Workload.COMPLETION, Workload.CHAT}
    assert workloads(VECTORS, ()) == {Workload.EMBEDDING}
    silent = pool_view(replica())
    assert told(silent) == told(None) == []
    assert features(told(silent)) is None


def test_what_one_live_replica_lacks_the_pool_lacks() -> None:
    """LO-ORC-162, LO-ORC-111."""
    both = abilities(*Workload)
    one = abilities(Workload.COMPLETION, without=[Feature.GRAMMAR])
    stopped = replica(2, state=ReplicaState.STOPPED, capabilities=abilities(Workload.RERANK))
    view = pool_view(replica(0, capabilities=both), replica(1, capabilities=one), stopped)
    assert workloads(CHAT, told(view)) == {Workload.COMPLETION}
    assert features(told(view)) == frozenset(Feature) - {Feature.GRAMMAR}


@pytest.mark.parametrize(("fields", "serves"), [(EMBED, "chat, completion"), (RERANK, "chat")])
def test_a_workload_no_pool_of_the_model_serves_is_refused_and_told_what_is(
    fields: dict[str, Any], serves: str
) -> None:
    """LO-ORC-162."""
    for view in (None, pool_view(replica(capabilities=abilities()))):
        refused = refusal(fields, **{} if view is None else {"chat": view})
        assert refused.details is not None
        assert refused.details["field"] == "workload"
        assert f"pool chat serves {serves}" in refused.details["reason"]
        assert refused.details["reason"] in refused.message


def test_a_live_replica_is_believed_before_the_configuration() -> None:
    """LO-ORC-162."""
    view = pool_view(replica(capabilities=abilities(Workload.EMBEDDING)))
    assert admitted(EMBED, chat=view) == ["chat"]
    assert refusal({}, chat=view).details == {
        "field": "workload",
        "reason": "pool chat serves embedding",
    }


def test_of_two_pools_of_a_model_the_one_that_can_is_taken() -> None:
    """LO-ORC-162."""
    assert admitted(EMBED, CHAT, VECTORS) == ["vectors"]
    assert admitted({}, CHAT, VECTORS) == ["chat"]


def test_where_a_pool_could_do_it_its_own_refusal_is_told() -> None:
    """LO-ORC-162: and not that another pool could not, whichever comes last."""
    draining = {"vectors": pool_view(replica(0), pool_id="vectors", draining=True)}
    for specs in ((CHAT, VECTORS), (VECTORS, CHAT)):
        with pytest.raises(PoolDraining):
            admitted(EMBED, *specs, **draining)


@pytest.mark.parametrize(
    ("fields", "feature"),
    [
        ({"json_schema": {"type": "object"}}, Feature.JSON_SCHEMA),
        ({"grammar": "root ::= [a-z]"}, Feature.GRAMMAR),
        ({"stop": ["."]}, Feature.STOP),
        ({"seed": 0}, Feature.SEED),
        ({"temperature": 0.0}, Feature.TEMPERATURE),
        ({"top_p": 0.5}, Feature.TOP_P),
        ({"top_k": 1}, Feature.TOP_K),
    ],
)
def test_a_field_the_engine_has_no_word_for_is_refused_with_the_remedy(
    fields: dict[str, Any], feature: Feature
) -> None:
    """LO-ORC-166, LO-ORC-167."""
    (field,) = fields
    able = pool_view(replica(capabilities=abilities()))
    unable = pool_view(replica(capabilities=abilities(without=[feature])))
    assert admitted(fields) == admitted(fields, chat=able) == ["chat"], "or nobody told yet"
    refused = refusal(fields, chat=unable)
    assert refused.details == {
        "field": field,
        "reason": f"engine llamacpp of pool chat has no {feature}",
    }
    assert "leave it out, or name a pool whose `features` list it" in refused.message
    assert refused.pool_id == "chat"


@pytest.mark.parametrize("fields", [{"top_p": 1.0}, {"top_k": 0}, {"stop": []}])
def test_what_asks_for_nothing_needs_nothing(fields: dict[str, Any]) -> None:
    """LO-ORC-167."""
    bare = pool_view(replica(capabilities=abilities(without=list(Feature))))
    assert admitted(fields, chat=bare) == ["chat"]


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"top_k": 0},
        {"stop": ["."]},
        {"sampler_profile_version": "greedy-1"},
        {"determinism": "strict"},
    ],
)
def test_what_only_a_text_has_is_refused_of_an_embedding(field: dict[str, Any]) -> None:
    """LO-ORC-012."""
    (name,) = field
    for fields in (EMBED, RERANK):
        with pytest.raises(Unable) as refused:
            refuse_senseless(task_request(**fields | field))
        assert refused.value.details is not None
        assert refused.value.details["field"] == name
        assert "generates no text" in refused.value.details["reason"]
    refuse_senseless(task_request(**field))


@pytest.mark.parametrize("fields", [EMBED, RERANK])
def test_what_is_answered_at_once_generates_nothing(fields: dict[str, Any]) -> None:
    """LO-ORC-164."""
    refuse_senseless(task_request(**fields | {"determinism": "best_effort", "seed": 1}))
    assert output_bound(task_request(**fields)) == 0
    assert output_bound(task_request(**fields | {"max_tokens": None})) == 0
    assert output_bound(task_request(max_tokens=7)) == 7
