"""S-3, S-4: readers that leave in the middle, at the beginning, or by half."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from test_harness.chaos.aftermath import log_lines
from test_harness.chaos.figures import Figures, at_least, at_most, exactly, timely
from test_harness.chaos.posters import task_id_of
from test_harness.chaos.rig import fake_pool, served
from test_harness.chaos.standing import standing
from test_harness.chaos.streams.watch import Watch
from test_harness.chaos.streams.wire import Wire, event_id
from test_harness.chaos.waits import until
from test_harness.stack import Stack
from test_harness.task_client import TaskClient, assert_grammar

RECEIVE_BUFFER = 4_096
BUFFER_BYTES = 16_384
"""`stream_buffer_bytes`: small, so that a reader that leaves has most of its stream unsent."""
ROUNDS = 3
STREAMS = 8
TASKS, STREAM = "/v1/tasks", "/v1/tasks/{task_id}/stream"
SILENCE = {"metrics_interval_ms": 600_000, "keepalive_ms": 600_000}
"""The stream of a task that waits says nothing at all."""
FREED_S = 1.0
POSTED_TOKENS = 4

Leave = Callable[[Wire], None]


def readers_that_reset(root: Path, seed: int, full: bool) -> Figures:
    """S-3: many clients of a long finished log leave with RST in its middle, all at once."""
    events, clients = (100_000, 50) if full else (10_000, 20)
    pool = fake_pool(root, "--token-ms", "0", ctx=2 * events)
    with served(root, pool, limits={"stream_buffer_bytes": BUFFER_BYTES}) as stack:
        with standing(stack, full) as stood, TaskClient(stack) as client:
            task_id = client.accept(max_tokens=events)
            whole = client.collect(task_id)
            with Watch(stack) as watch:
                left = _reset_in_the_middle(stack, task_id, random.Random(seed), clients)
                _wait_over(stack, STREAM, 1 + left)
                growth = watch.resident_bytes() / watch.began_bytes
            assert client.collect(task_id) == whole
    assert_grammar(whole)
    return {
        "readers that left": exactly(left, ROUNDS * clients),
        "healthz p99, ms": timely(watch.healthz_p99_ms, 100, full),
        "memory, of that before": at_most(growth, 1.2),
        **stood,
    }


def readers_that_leave_early(root: Path, seed: int, full: bool) -> Figures:
    """S-4: however a reader leaves before the first event, the stream it had is free again."""
    ways = [_at_once, _politely, _after_the_head, _by_half]
    return _leave_in_waves(root, 63 if full else 8, ways, full)


def readers_that_talk_on(root: Path, seed: int, full: bool) -> Figures:
    """S-4: so it is for a reader that has sent something after its request."""
    return _leave_in_waves(root, 16 if full else 4, [_after_a_line, _after_a_request], full)


def posts_that_break(root: Path, seed: int, full: bool) -> Figures:
    """S-4: a task that was posted for its stream lives on when that connection breaks."""
    count, chance = 300 if full else 20, random.Random(seed)
    ways = [_at_once, _politely, _after_the_head, _after_an_event, _by_half]
    with served(root, fake_pool(root, "--token-ms", "5", slots=4)) as stack:
        with standing(stack, full) as stood, TaskClient(stack) as client:
            ids = [task_id_of(chance) for _ in range(count)]
            for task_id in ids:
                chance.choice(ways)(Wire(stack).post(task_id=task_id, max_tokens=POSTED_TOKENS))
            whole = [_is_whole(stack, client, task_id) for task_id in ids]
            _wait_over(stack, TASKS, 2 * count)
    return {"posts that broke": count, "whole streams": exactly(sum(whole), count), **stood}


def readers_by_half(root: Path, seed: int, full: bool) -> Figures:
    """S-4: a client that closes its half has read a beginning of its stream, and resumes."""
    chance, seen, closed = random.Random(seed), 0, 0
    pool = fake_pool(root, "--token-ms", "2")
    with served(root, pool, limits={"streams": 2}) as stack:
        with standing(stack, full) as stood, TaskClient(stack) as client:
            task_id = client.accept(max_tokens=5_000 if full else 250)
            while client.task(task_id)["state"] in {"queued", "running"}:
                ids = _half_closed(stack, task_id, seen, chance.uniform(0, 0.02))
                assert ids == list(range(seen + 1, seen + 1 + len(ids)))
                seen += len(ids)
                closed += 1
            whole = client.collect(task_id)
            _wait_over(stack, STREAM, closed + 1)
    assert_grammar(whole)
    return {"connections closed by half": at_least(closed, 5), **stood}


def _leave_in_waves(root: Path, waves: int, ways: Sequence[Leave], full: bool) -> Figures:
    """As many readers as there may be streams come and leave, again and again."""
    freed = []
    with served(root, fake_pool(root), limits={"streams": STREAMS}, streams=SILENCE) as stack:
        with standing(stack, full) as stood, TaskClient(stack) as client:
            client.accept(prompt="fault=silent-after-accept")
            waiting = client.accept()
            for wave in range(waves):
                wires = [Wire(stack).follow(waiting) for _ in range(STREAMS)]
                for wire in wires:
                    ways[wave % len(ways)](wire)
                freed.append(_wait_over(stack, STREAM, (wave + 1) * STREAMS))
            _assert_all_free(stack, waiting)
            assert client.task(waiting)["state"] == "queued"
    return {
        "readers that left": waves * STREAMS,
        "their streams free after at most, s": timely(max(freed), FREED_S, full),
        **stood,
    }


def _assert_all_free(stack: Stack, task_id: str) -> None:
    """As many streams as there may be are answered 200, and one more 429."""
    with contextlib.ExitStack() as wires:
        opened = [wires.enter_context(Wire(stack)).follow(task_id) for _ in range(STREAMS)]
        assert [wire.status() for wire in opened] == [200] * STREAMS
        assert wires.enter_context(Wire(stack)).follow(task_id).status() == 429


def _is_whole(stack: Stack, client: TaskClient, task_id: str) -> bool:
    """Whether the task ran once, and the same POST again gives its whole stream."""
    events = client.collect(task_id)
    assert_grammar(events)
    with Wire(stack).post(task_id=task_id, max_tokens=POSTED_TOKENS) as again:
        ids = list(map(event_id, again.frames()))
    return (
        ids == [event.id for event in events]
        and events[-1].data.get("tokens_out") == POSTED_TOKENS
        and client.task(task_id)["attempt"] == 1
    )


def _wait_over(stack: Stack, route: str, count: int) -> float:
    """Wait until so many requests of a route were answered 200 and are over; the seconds."""

    def over() -> bool:
        lines = log_lines(stack.root, "http.request")
        return sum((line["route"], line["status"]) == (route, 200) for line in lines) >= count

    return until(over, 10 * FREED_S, f"{count} answers of {route} are over")


def _reset_in_the_middle(stack: Stack, task_id: str, chance: random.Random, clients: int) -> int:
    """Rounds of clients that each read a random part, at most a half; how many left."""
    with TaskClient(stack) as client:
        size = len(client.get(f"/v1/tasks/{task_id}/stream").content)
    with ThreadPoolExecutor(clients) as threads:
        for _ in range(ROUNDS):
            points = [chance.randrange(1, size // 2) for _ in range(clients)]
            taken = threads.map(partial(_reset_after, stack, task_id), points)
            assert max(taken) + BUFFER_BYTES < size, "each left in the middle"
    return ROUNDS * clients


def _reset_after(stack: Stack, task_id: str, point: int) -> int:
    wire = Wire(stack, RECEIVE_BUFFER).follow(task_id)
    taken = wire.take(point)
    wire.reset()
    return taken


def _half_closed(stack: Stack, task_id: str, after: int, open_s: float) -> list[int]:
    with Wire(stack).follow(task_id, after) as wire:
        assert wire.status() == 200
        time.sleep(open_s)
        return list(map(event_id, wire.half_close().frames()))


def _at_once(wire: Wire) -> None:
    wire.reset()


def _politely(wire: Wire) -> None:
    wire.close()


def _after_the_head(wire: Wire) -> None:
    assert wire.status() == 200
    wire.reset()


def _after_an_event(wire: Wire) -> None:
    next(wire.frames())
    wire.reset()


def _by_half(wire: Wire) -> None:
    list(wire.half_close().frames())
    wire.close()


def _after_a_line(wire: Wire) -> None:
    assert wire.status() == 200
    wire.talk_on(b"\r\n").reset()


def _after_a_request(wire: Wire) -> None:
    assert wire.status() == 200
    wire.talk_on(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").close()
