"""Q-3: one id is one task, however often and however at once it is posted."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

from test_harness.chaos.queueing.engines import Served, engines, hold_the_slot, pool_of, rows
from test_harness.chaos.queueing.posts import Post, any_id, post_all
from test_harness.chaos.queueing.runs import runs_of

COPIES = 50
SPACES = ("", " ", "\n", "\t  ")


def same_id(root: Path, seed: int, full: bool) -> dict[str, float]:
    """Equal bodies in other words, all at once; then another body, and the same again."""
    rounds = 50 if full else 3
    chance = random.Random(seed)
    with engines(root, pool_of(root)) as it:
        for _ in range(rounds):
            _one_id(it, chance)
        assert rows(it.stack, "SELECT count(*) FROM tasks")[0][0] == 2 * rounds
    return {"ids": rounds, "posts of each at once": COPIES, "runs of each": 1}


def _one_id(it: Served, chance: random.Random) -> None:
    blocker = hold_the_slot(it)
    task_id = any_id(chance)
    body = {"task_id": task_id, "model": "tiny", "prompt": "A b", "max_tokens": 3, "seed": 1}
    copies = [Post(task_id, _in_other_words(chance, body)) for _ in range(COPIES)]
    assert len({post.body for post in copies}) > COPIES // 2
    answers = post_all(it.stack, copies, connections=COPIES)
    assert {answer.status for answer in answers} == {202}
    assert _told(answers[0].body) == (task_id, "queued", 0)
    assert all(_told(answer.body) == _told(answers[0].body) for answer in answers)
    _assert_conflict(it, body)
    it.client.cancel(blocker)
    assert it.client.collect(task_id)[-1].name == "end"
    _assert_conflict(it, body)
    (again,) = post_all(it.stack, [Post(task_id, _in_other_words(chance, body))])
    assert (again.status, *_told(again.body)) == (202, task_id, "succeeded", None)
    assert len(runs_of(it.stack, [answer.task_id for answer in answers])) == 1


def _told(body: dict[str, Any]) -> tuple[str, str, int | None]:
    return body["task_id"], body["state"], body["queue_position"]


def _assert_conflict(it: Served, body: dict[str, Any]) -> None:
    other = Post(body["task_id"], json.dumps(body | {"max_tokens": 4}).encode())
    (answer,) = post_all(it.stack, [other])
    assert (answer.status, answer.body["code"]) == (409, "CONFLICT")


def _in_other_words(chance: random.Random, body: dict[str, Any]) -> bytes:
    """The same object with its keys in another order and other spaces."""
    space = partial(chance.choice, SPACES)
    pairs = dict(chance.sample(list(body.items()), len(body)))
    separators = (f"{space()},{space()}", f"{space()}:{space()}")
    return json.dumps(pairs, separators=separators).encode()
