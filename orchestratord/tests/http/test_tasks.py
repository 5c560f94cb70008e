"""The task API as a client meets it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.errors import STATUS, ErrorCode
from contracts.ids import is_uuid
from contracts.pools import ReplicaState
from contracts.tasks import Admission, TaskPage, TaskState, TaskView
from orchestratord.tests.builders import TASK_ID, last_error, pool_view, replica, snapshot
from orchestratord.tests.http.conftest import Opening, Site
from orchestratord.tests.http.reading import done, stream_of, unchunked
from orchestratord.tests.runtime.frames import parse as frames_in
from orchestratord.tests.runtime.world import END
from orchestratord.tests.stores.rows import id_of
from worker_adapters.base import Token
from worker_adapters.scripted import Fault

pytestmark = pytest.mark.anyio

STREAM = {"Accept": "text/event-stream"}
OTHER_ID = id_of(9)


async def test_a_task_is_answered_with_its_place_and_where_to_follow_it(site: Opening) -> None:
    """LO-ORC-001, LO-ORC-013."""
    async with site(slots=0) as it:
        await it.post()
        answer = await it.post(task_id=TASK_ID.upper())
        assert answer.status == 202
        assert Admission.model_validate_json(answer.body) == Admission(
            task_id=TASK_ID,
            state=TaskState.QUEUED,
            queue_position=1,
            predicted_start_ms=None,
            backoff_ms=0,
            stream_url=f"/v1/tasks/{TASK_ID}/stream",
        )
        assert answer.headers["x-task-id"] == TASK_ID
        assert answer.headers["x-queue-position"] == "1"


async def test_a_client_that_accepts_a_stream_is_given_it_at_once(site: Opening) -> None:
    """LO-ORC-014, LO-HTTP-011."""
    async with site() as it:
        answer = await it.post(STREAM)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert is_uuid(answer.headers["x-task-id"])
        assert is_uuid(answer.headers["x-correlation-id"])
        frames = frames_in(unchunked(answer.body))
        assert [frame.name for frame in frames] == ["started", "token", "token", "end"]


async def test_a_task_is_accepted_where_no_stream_can_be_had(site: Opening) -> None:
    """LO-ORC-001, LO-ORC-014: a full house of readers is no reason to refuse work."""
    async with site(limits={"streams": 1}) as it:
        with it.drain.stream():
            answer = await it.post(STREAM, task_id=TASK_ID)
        assert (answer.status, answer.json["task_id"]) == (202, TASK_ID)
        assert answer.headers["x-task-id"] == TASK_ID
        assert (await it.post(STREAM, task_id=TASK_ID)).status == 200


async def test_a_posted_stream_whose_beginning_is_gone_is_not_given_a_gap(site: Opening) -> None:
    """LO-ORC-061: the admission is the answer then."""
    async with site(streams={"log_bytes": 65_536}) as it:
        it.behind.play([Token("x" * 20_000)] * 8 + [END])
        await it.post(task_id=TASK_ID)
        await done(it)
        it.behind.log(TASK_ID)._dropped_through = 3
        answer = await it.post(STREAM, task_id=TASK_ID)
        assert (answer.status, answer.json["state"]) == (202, "succeeded")


DRAINING = pool_view(replica(), draining=True)
FAILED = pool_view(replica(state=ReplicaState.FAILED), last_error=last_error())
REFUSALS: dict[ErrorCode, dict[str, Any]] = {
    ErrorCode.INVALID_PARAMS: {"max_tokens": 0},
    ErrorCode.MODEL_UNKNOWN: {"model": "other"},
    ErrorCode.CONTEXT_EXCEEDED: {"max_tokens": 512},
    ErrorCode.CONFLICT: {"seed": 5},
    ErrorCode.QUEUE_FULL: {"task_id": OTHER_ID},
    ErrorCode.POOL_UNREADY: {"task_id": OTHER_ID},
    ErrorCode.POOL_UNAVAILABLE: {"task_id": OTHER_ID},
    ErrorCode.POOL_DRAINING: {"task_id": OTHER_ID},
    ErrorCode.STORAGE_BUSY: {"task_id": OTHER_ID},
    ErrorCode.STORAGE_FULL: {"task_id": OTHER_ID, "prompt": "x" * 200_000},
    ErrorCode.SHUTTING_DOWN: {"task_id": OTHER_ID},
}


async def provoke(it: Site, code: ErrorCode) -> None:
    """Bring the daemon into the state in which it refuses with `code`."""
    world = it.behind
    match code:
        case ErrorCode.CONFLICT:
            await it.post(task_id=TASK_ID)
        case ErrorCode.QUEUE_FULL:
            await it.post()
        case ErrorCode.POOL_UNREADY:
            world.pools.update(snapshot(pool_view()), 0.0, 0)
        case ErrorCode.POOL_UNAVAILABLE:
            world.pools.update(snapshot(FAILED), 0.0, 0)
        case ErrorCode.POOL_DRAINING:
            world.pools.update(snapshot(DRAINING), 0.0, 0)
        case ErrorCode.SHUTTING_DOWN:
            world.dispatcher.draining = True
        case ErrorCode.STORAGE_FULL:
            await world.database._writer.call(lambda c: c.execute("PRAGMA max_page_count = 1"))


@pytest.mark.parametrize("code", list(REFUSALS))
async def test_every_refusal_names_the_task_and_leaves_nothing(
    site: Opening, code: ErrorCode
) -> None:
    """LO-ORC-006, LO-ORC-013, LO-HTTP-040, LO-HTTP-041, LO-HTTP-042."""
    async with site(slots=0, capacity=1) as it:
        await provoke(it, code)
        fields = {"task_id": TASK_ID} | REFUSALS[code]
        if code is ErrorCode.STORAGE_BUSY:
            with it.behind.locked():
                answer = await it.post(**fields)
        else:
            answer = await it.post(**fields)
        assert (answer.status, answer.json["code"]) == (STATUS[code], code)
        assert is_uuid(answer.headers["x-task-id"])
        if code is not ErrorCode.INVALID_PARAMS:
            assert answer.headers["x-task-id"] == fields["task_id"]
        if answer.status in (429, 503):
            assert answer.headers["retry-after"] == "1"
            assert int(answer.headers["x-backoff-ms"]) == answer.json["retry_after_ms"]
        assert ("policy_label" in answer.json) == (answer.status == 429)
        if code is not ErrorCode.CONFLICT:
            assert (await it.ask("GET", f"/v1/tasks/{fields['task_id']}")).status == 404


async def test_a_body_that_is_no_task_is_answered_with_an_id_too(site: Opening) -> None:
    """LO-ORC-013."""
    async with site() as it:
        answer = await it.ask("POST", "/v1/tasks", b'{"model":')
        assert (answer.status, answer.json["code"]) == (400, "INVALID_PARAMS")
        assert is_uuid(answer.headers["x-task-id"])


async def test_a_task_reads_the_same_in_its_view_and_in_its_stream(site: Opening) -> None:
    """LO-ORC-091."""
    async with site() as it:
        sent = await it.post(task_id=TASK_ID, metadata={"a": "b"})
        await done(it)
        answer = await it.ask("GET", f"/v1/tasks/{TASK_ID.upper()}")
        view = TaskView.model_validate_json(answer.body)
        assert (view.state, view.text, view.finish_reason) == ("succeeded", "hello", "stop")
        assert view.usage is not None
        assert (view.usage.tokens_in, view.usage.tokens_out) == (3, 2)
        assert view.metadata == {"a": "b"}
        assert view.correlation_id == sent.headers["x-correlation-id"]
        frames = frames_in((await stream_of(it)).body)
        assert frames[0].data["seed"] == view.seed


async def test_cancel_is_204_however_often_and_404_for_nobody(site: Opening) -> None:
    """LO-ORC-080, LO-ORC-081."""
    async with site() as it:
        it.behind.play([Token("a"), Fault.SILENT])
        await it.post(task_id=TASK_ID)
        await it.behind.until(TASK_ID, "token")
        for _ in range(3):
            answer = await it.ask("POST", f"/v1/tasks/{TASK_ID}/cancel")
            assert (answer.status, answer.body) == (204, b"")
        frames = frames_in((await stream_of(it)).body)
        assert [frame.name for frame in frames] == ["started", "token", "error"]
        view = (await it.ask("GET", f"/v1/tasks/{TASK_ID}")).json
        assert (view["state"], view["error"]["code"], view["text"]) == ("canceled", "CANCELED", "a")
        assert (await it.ask("POST", f"/v1/tasks/{OTHER_ID}/cancel")).status == 404
        assert (await it.ask("POST", "/v1/tasks/x/cancel")).status == 404


async def test_pages_meet_newest_first_and_leave_the_text_out(site: Opening) -> None:
    async with site() as it:
        for number in range(1, 6):
            await it.post(task_id=id_of(number), prompt="x" * 20_000, metadata={"n": f"{number}"})
            await done(it, id_of(number))
        seen, query = [], "limit=2"
        while True:
            answer = await it.ask("GET", f"/v1/tasks?{query}")
            page = TaskPage.model_validate_json(answer.body)
            seen += [view.task_id for view in page.items]
            for view in page.items:
                assert (view.text, view.model, view.workload) == (None, "tiny", "completion")
                assert view.metadata == {"n": view.task_id[7]}
            assert b"xxx" not in answer.body
            if page.next_cursor is None:
                break
            query = f"limit=2&cursor={page.next_cursor}"
        assert seen == [id_of(number) for number in (5, 4, 3, 2, 1)]
        queued = (await it.ask("GET", "/v1/tasks?state=queued")).json
        assert queued == {"items": [], "next_cursor": None}
        assert len((await it.ask("GET", "/v1/tasks?state=succeeded")).json["items"]) == 5


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e2", "limit"),
        ("limit=", "limit"),
        ("limit=%0a5", "limit"),
        ("limit=5%0a", "limit"),
        ("limit=%D9%A1", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=0", "cursor"),
        ("cursor=" + "9" * 30, "cursor"),
        ("state=lost", "state"),
        ("state=", "state"),
        ("state=Queued", "state"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused_by_name(
    site: Opening, query: str, field: str
) -> None:
    async with site() as it:
        answer = await it.ask("GET", f"/v1/tasks?{query}")
        assert (answer.status, answer.json["code"]) == (400, "INVALID_PARAMS")
        assert answer.json["details"] == {"field": field}
        assert answer.json["message"].startswith(f"{field}: ")


async def test_pools_and_capabilities_are_told_from_live_replicas(site: Opening) -> None:
    """LO-ORC-110, LO-ORC-111."""
    async with site(slots=0) as it:
        before = (await it.ask("GET", "/v1/capabilities")).json["pools"][0]
        assert (before["slots_total"], before["engine_version"]) == (0, None)
        gate = asyncio.Event()
        it.behind.play([gate, END])
        it.behind.serve(replica(0, slots=2), replica(1, state=ReplicaState.STARTING))
        await it.post()
        pool = (await it.ask("GET", "/v1/capabilities")).json["pools"][0]
        assert (pool["slots_total"], pool["slots_free"], pool["ctx_max"]) == (2, 1, 512)
        assert pool["engine_version"] == "b100"
        page = (await it.ask("GET", "/v1/pools")).json
        assert (page["items"][0]["running"], page["pool_manager"]) == (1, "connected")
        health = (await it.ask("GET", "/v1/pools/chat/health")).json
        assert (health["ready"], len(health["replicas"])) == (True, 2)
        assert (await it.ask("GET", "/v1/pools/other/health")).status == 404
        it.behind.pools.update(None, 0.0, 0)
        assert (await it.ask("GET", "/v1/pools")).json["pool_manager"] == "away"
        gate.set()


async def test_ready_while_it_accepts_work_whatever_the_engines_do(site: Opening) -> None:
    """LO-ORC-013, LO-ORC-112, LO-HTTP-045, LO-HTTP-046."""
    async with site(slots=0) as it:
        it.behind.pools.update(None, 0.0, 0)
        assert (await it.ask("GET", "/readyz", token=None)).status == 200
        it.drain.begin()
        answer = await it.ask("GET", "/readyz", token=None)
        assert (answer.status, answer.json["code"]) == (503, "SHUTTING_DOWN")
        assert (await it.ask("GET", "/healthz", token=None)).status == 200
        refused = await it.post(task_id=TASK_ID)
        assert (refused.status, refused.json["code"]) == (503, "SHUTTING_DOWN")
        assert is_uuid(refused.headers["x-task-id"])


async def test_metrics_count_what_happened(site: Opening) -> None:
    """LO-MET-003."""
    async with site() as it:
        await it.post(task_id=TASK_ID)
        await done(it)
        await it.post(model="other")
        text = (await it.ask("GET", "/metrics")).body.decode()
        labels = 'engine="llamacpp",engine_version="b100",pool_id="chat",replica_id="chat/0"'
        assert f"tokens_in_total{{{labels}}} 3.0" in text
        assert f"tokens_out_total{{{labels}}} 2.0" in text
        assert 'tasks_rejected_total{engine="none",reason="MODEL_UNKNOWN"} 1.0' in text
        assert 'outcome="succeeded"' in text
