"""Which pools would take a task, and every reason why none does."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.errors import ErrorCode, Refusal
from contracts.pools import PoolView, ReplicaState
from contracts.tasks import TaskRequest
from orchestratord.domain.admission import (
    admitting_pools,
    refuse_too_long,
)
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.sampling import sampling_of
from orchestratord.errors import (
    ContextExceeded,
    ModelUnknown,
    PoolDraining,
    PoolUnavailable,
    PoolUnready,
)
from orchestratord.tests.builders import (
    CHAT,
    configured,
    last_error,
    pool_view,
    replica,
    task_request,
)

UP = {"chat": pool_view(replica())}
SPARE = PoolSpec("spare", "llamacpp", "tiny", "file:/models/tiny", 2048)


def admitting(
    request: TaskRequest, *specs: PoolSpec, views: dict[str, PoolView] | None = None
) -> list[PoolSpec]:
    return admitting_pools(
        request, sampling_of(request, {}), specs or (CHAT,), UP if views is None else views
    )


def state_of(*states: ReplicaState, **fields: Any) -> dict[str, PoolView]:
    return {"chat": pool_view(*(replica(n, state=s) for n, s in enumerate(states)), **fields)}


def test_a_spec_says_what_the_configuration_says() -> None:
    assert PoolSpec.of(configured()) == CHAT


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "tiny"},
        {"model": None, "model_ref": "file:/models/tiny"},
        {"model": None, "pool_id": "chat"},
        {"engine": "llamacpp"},
        {"model": "tiny", "model_ref": "file:/models/tiny", "pool_id": "chat"},
    ],
)
def test_a_pool_is_found_by_all_that_was_named(fields: dict[str, Any]) -> None:
    assert admitting(task_request(**fields)) == [CHAT]


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "other"},
        {"model": None, "model_ref": "file:/models/other"},
        {"pool_id": "other"},
        {"engine": "vllm"},
        {"model": "tiny", "model_ref": "file:/models/other"},
    ],
)
def test_what_no_pool_serves_is_unknown_and_the_answer_says_what_is(fields: dict[str, Any]) -> None:
    """LO-ORC-007."""
    with pytest.raises(ModelUnknown, match="models served: tiny") as caught:
        admitting(task_request(**fields))
    assert ("; pools: " in str(caught.value)) == ("pool_id" in fields)


@pytest.mark.parametrize(
    "state",
    [
        ReplicaState.PROVISIONING,
        ReplicaState.STARTING,
        ReplicaState.READY,
        ReplicaState.BACKOFF,
        ReplicaState.UNHEALTHY,
        ReplicaState.STOPPING,
    ],
)
def test_a_pool_on_its_way_up_takes_tasks_even_beside_a_failed_replica(state: ReplicaState) -> None:
    """LO-ORC-009."""
    assert admitting(task_request(), views=state_of(state)) == [CHAT]
    assert admitting(task_request(), views=state_of(ReplicaState.FAILED, state)) == [CHAT]


def test_a_pool_the_manager_has_not_told_of_takes_tasks() -> None:
    """LO-ORC-009."""
    assert admitting(task_request(), views={}) == [CHAT]


@pytest.mark.parametrize("states", [(), (ReplicaState.STOPPED,), (ReplicaState.STOPPED,) * 2])
def test_a_pool_that_nothing_starts_is_unready(states: tuple[ReplicaState, ...]) -> None:
    """LO-ORC-011."""
    with pytest.raises(PoolUnready) as refused:
        admitting(task_request(), views=state_of(*states))
    assert (refused.value.code, refused.value.pool_id) == (ErrorCode.POOL_UNREADY, "chat")
    assert refused.value.retry_after_ms


def test_a_pool_that_gave_up_is_unavailable_and_says_why() -> None:
    """LO-ORC-010."""
    views = state_of(ReplicaState.FAILED, ReplicaState.STOPPED, last_error=last_error())
    with pytest.raises(PoolUnavailable, match="the model file is missing") as refused:
        admitting(task_request(), views=views)
    assert refused.value.code is ErrorCode.POOL_UNAVAILABLE


def test_a_draining_pool_refuses_although_its_replicas_are_ready() -> None:
    with pytest.raises(PoolDraining):
        admitting(task_request(), views=state_of(ReplicaState.READY, draining=True))


def test_a_task_fits_when_prompt_and_output_can_fit() -> None:
    assert admitting(task_request(max_tokens=511)) == [CHAT]
    assert admitting(task_request(ctx=512)) == [CHAT]


@pytest.mark.parametrize("fields", [{"max_tokens": 512}, {"ctx": 513}])
def test_a_task_that_cannot_fit_is_told_both_figures(fields: dict[str, Any]) -> None:
    """LO-ORC-008."""
    with pytest.raises(ContextExceeded) as refused:
        admitting(task_request(**fields))
    assert refused.value.details == {"needed_tokens": 513, "ctx": 512}


@pytest.mark.parametrize(
    ("views", "fields", "refusal"),
    [
        (state_of(ReplicaState.FAILED, draining=True), {"model": "other"}, ModelUnknown),
        (state_of(ReplicaState.FAILED, draining=True), {"ctx": 9999}, PoolDraining),
        (state_of(ReplicaState.FAILED), {"ctx": 9999}, PoolUnavailable),
        (state_of(ReplicaState.STOPPED), {"ctx": 9999}, PoolUnready),
        (state_of(ReplicaState.READY), {"ctx": 9999}, ContextExceeded),
    ],
)
def test_the_checks_come_in_order_model_pool_context(
    views: dict[str, PoolView], fields: dict[str, Any], refusal: type[Refusal]
) -> None:
    """LO-ORC-005."""
    with pytest.raises(refusal):
        admitting(task_request(**fields), views=views)


def test_every_pool_that_admits_is_named_in_the_order_of_the_configuration() -> None:
    both = UP | {"spare": pool_view(replica(pool_id="spare"), pool_id="spare")}
    assert admitting(task_request(), CHAT, SPARE, views=both) == [CHAT, SPARE]
    assert admitting(task_request(), SPARE, CHAT, views=both) == [SPARE, CHAT]
    assert admitting(task_request(max_tokens=1000), CHAT, SPARE, views=both) == [SPARE]
    closed = both | state_of(ReplicaState.FAILED)
    assert admitting(task_request(), CHAT, SPARE, views=closed) == [SPARE]


def test_where_none_admits_the_last_one_says_why() -> None:
    views = state_of(ReplicaState.FAILED) | {"spare": pool_view(pool_id="spare")}
    with pytest.raises(PoolUnready):
        admitting(task_request(), CHAT, SPARE, views=views)
    with pytest.raises(PoolUnavailable):
        admitting(task_request(), SPARE, CHAT, views=views)


@pytest.mark.parametrize("prompt_tokens", [503, 504, 505])
def test_prompt_and_output_fit_up_to_the_last_token(prompt_tokens: int) -> None:
    """LO-ORC-008."""
    request = task_request(max_tokens=8)
    if prompt_tokens <= 504:
        refuse_too_long(request, prompt_tokens, CHAT)
        return
    with pytest.raises(ContextExceeded) as refused:
        refuse_too_long(request, prompt_tokens, CHAT)
    assert refused.value.details == {"needed_tokens": 513, "ctx": 512}


def test_a_context_that_was_asked_for_is_refused_however_short_the_prompt() -> None:
    """LO-ORC-008."""
    refuse_too_long(task_request(ctx=512), 1, CHAT)
    with pytest.raises(ContextExceeded):
        refuse_too_long(task_request(ctx=513), 1, CHAT)
