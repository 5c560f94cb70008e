"""One task from POST to the last token, on real llama.cpp behind both daemons."""

from __future__ import annotations

from pathlib import Path

import pytest

from test_harness.e2e.conftest import PoolFactory
from test_harness.stack import running_stack
from test_harness.task_client import TaskClient, assert_grammar, text_of

pytestmark = pytest.mark.slow


def test_two_replicas_share_the_work_and_tell_one_story(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-091, LO-SYS-001: what stream, GET and metrics say agrees."""
    with running_stack(tmp_path, [embedded_pool("endless", replicas=2)]) as stack:
        stack.wait_serving("chat", replicas=2)
        with TaskClient(stack) as client:
            tasks = [client.accept(max_tokens=24, seed=seed) for seed in (1, 2)]
            streams = [future.result() for future in map(client.collecting, tasks)]
            placed = set()
            for task_id, events in zip(tasks, streams, strict=True):
                assert_grammar(events)
                seen = client.task(task_id)
                started, end = events[0].data, events[-1].data
                assert end["finish_reason"] == "length"
                assert end["tokens_out"] == seen["usage"]["tokens_out"] == 24
                assert end["tokens_in"] == seen["usage"]["tokens_in"] > 0
                assert text_of(events) == seen["text"] != ""
                assert seen["state"] == "succeeded"
                assert seen["placement"]["replica_id"] == started["replica_id"]
                assert started["model_digest"].startswith("sha256:")
                placed.add(started["replica_id"])
            assert placed == {"chat/0", "chat/1"}
            figures = client.get("/metrics").text
            assert 'outcome="succeeded"' in figures
            assert "tokens_out_total{" in figures


def test_equal_seeds_give_equal_text_and_a_resumed_stream_misses_nothing(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-063: Last-Event-ID at any event leaves no gap and no duplicate."""
    with running_stack(tmp_path, [embedded_pool()]) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:
            first, second = (client.collect(client.accept(seed=7)) for _ in range(2))
            assert text_of(first) == text_of(second)
            task_id = client.accept(seed=8)
            whole = client.collect(task_id)
            for event in whole[:-1]:
                assert client.collect(task_id, after=event.id) == whole[event.id :]
            beyond = {"Last-Event-ID": str(len(whole) + 1)}
            assert client.get(f"/v1/tasks/{task_id}/stream", headers=beyond).status_code == 400


def test_a_chat_is_rendered_by_the_engines_own_template(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-WRK-012: the template's own tokens are counted, so the prompt is longer than its words."""
    with running_stack(tmp_path, [embedded_pool()]) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:
            answer = client.get("/v1/capabilities").json()["pools"][0]
            assert answer["slots_total"] == 1
            chat = [{"role": "user", "content": "The river"}]
            plain = client.collect(client.accept())[-1].data
            chatted = client.collect(client.accept(workload="chat", prompt=None, messages=chat))[
                -1
            ].data
            assert chatted["tokens_in"] > plain["tokens_in"]


def test_post_with_an_event_stream_accepted_answers_with_the_stream(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-014: 200 and the stream at once, with the id in X-Task-Id."""
    with running_stack(tmp_path, [embedded_pool()]) as stack:
        stack.wait_serving("chat")
        with stack.client() as http:
            body = {"model": "tiny", "prompt": "The river", "max_tokens": 8}
            answer = http.post("/v1/tasks", json=body, headers={"Accept": "text/event-stream"})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        with TaskClient(stack) as client:
            assert client.task(answer.headers["x-task-id"])["state"] == "succeeded"
