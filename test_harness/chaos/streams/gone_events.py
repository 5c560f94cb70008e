"""S-7: what a small log no longer keeps is said to be gone, and never passed over in silence."""

from __future__ import annotations

import random
from bisect import bisect_left
from functools import partial
from pathlib import Path
from typing import Any

from test_harness.chaos.figures import Figures, at_least, exactly
from test_harness.chaos.posters import task_id_of
from test_harness.chaos.rig import fake_pool, served
from test_harness.chaos.standing import standing
from test_harness.chaos.streams.wire import Wire, event_id
from test_harness.stack import Stack
from test_harness.task_client import Event, TaskClient, assert_grammar, text_of

LOG_BYTES = 65_536
BUFFER_BYTES = 16_384
RECEIVE_BUFFER = 4_096
OFTEN_MS = 1
"""Between figures: they fill the log, and the text is short."""
TOKENS = 100
KEPT, GONE, REFUSED = (200, None), (410, "GONE"), (400, "INVALID_PARAMS")
MALFORMED = ("-1", "1.5", "abc", "", "1e3", "0x1", "+1", "9" * 16)

Answered = tuple[int, str | None]


def events_that_are_gone(root: Path, seed: int, full: bool) -> Figures:
    """A log that forgot its beginning, and readers that ask for every part of it."""
    chance = random.Random(seed)
    streams = {"log_bytes": LOG_BYTES, "metrics_interval_ms": OFTEN_MS}
    limits = {"stream_buffer_bytes": BUFFER_BYTES}
    pool = fake_pool(root, "--token-ms", "20")
    # What is told of the budgets of a session makes figures longer.
    ids = {"task_id": task_id_of(chance), "session_id": task_id_of(chance)}
    with served(root, pool, streams=streams, limits=limits) as stack:
        with standing(stack, full) as stood, TaskClient(stack) as client:
            late, events = _read_late(stack, client, ids)
            asked = partial(_asked, client, ids["task_id"])
            gone = bisect_left(range(len(events)), True, key=lambda after: asked(after) == KEPT)
            points = _points(chance, gone, len(events), 300 if full else 20)
            wrong = sum(asked(after) != _wanted(after, gone, len(events)) for after in points)
            accepted = sum(asked(text) != REFUSED for text in MALFORMED)
            kept = client.collect(ids["task_id"], after=gone)
            with Wire(stack).post(**ids, max_tokens=TOKENS) as again:
                assert again.status() == 202, "no stream without its beginning"
    assert kept == events[gone:]
    return {
        "events gone": at_least(gone, 1),
        "events a laggard missed": at_least(len(events) - late, 1),
        "answers": len(points) + len(MALFORMED),
        "answers that are wrong": exactly(wrong, 0),
        "malformed ids taken": exactly(accepted, 0),
        **stood,
    }


def _read_late(stack: Stack, client: TaskClient, ids: dict[str, Any]) -> tuple[int, list[Event]]:
    """How many events came to a reader that began when the task was over, and all there were."""
    with Wire(stack, RECEIVE_BUFFER).post(**ids, max_tokens=TOKENS) as laggard:
        assert laggard.status() == 200
        events = client.collect(ids["task_id"])
        late = list(map(event_id, laggard.frames()))
    assert_grammar(events)
    assert text_of(events) == client.task(ids["task_id"])["text"]
    assert late == list(range(1, len(late) + 1)), "it missed an end, and nothing between"
    return len(late), events


def _points(chance: random.Random, gone: int, last: int, count: int) -> list[int]:
    """Ids to ask for: both sides of each border, and some between."""
    borders = [0, gone - 1, gone, gone + 1, last - 1, last, last + 1, 10**14]
    return borders + [chance.randrange(last) for _ in range(count)]


def _wanted(after: int, gone: int, last: int) -> Answered:
    if after > last:
        return REFUSED
    return GONE if after < gone else KEPT


def _asked(client: TaskClient, task_id: str, after: int | str) -> Answered:
    """Status and code that a reader which has seen `after` is answered."""
    headers = {"Last-Event-ID": str(after)}
    answer = client.get(f"/v1/tasks/{task_id}/stream", headers=headers)
    if answer.status_code == 200:
        assert len(answer.content) <= LOG_BYTES
        return KEPT
    return answer.status_code, answer.json()["code"]
