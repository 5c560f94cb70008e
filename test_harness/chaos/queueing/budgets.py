"""Q-9: a budget is never passed, whatever is posted, canceled or killed."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from test_harness.chaos.queueing.engines import Served, engines, hold_the_slot, pool_of, rows
from test_harness.chaos.queueing.posts import Answer, Post, accepted, any_id, post_all
from test_harness.chaos.rig import POOL
from test_harness.chaos.waits import ended, until
from test_harness.stack import Stack
from test_harness.task_client import TaskClient

AFFORDED = 10
PROMPT = "tell me more len=4"
WORDS, OUTPUT = 4, 4
MAX_TOKENS = 16
HOLD = WORDS + MAX_TOKENS
LIMIT = AFFORDED * HOLD
POSTS = 100
ENDED_S = 60.0


class Sums(NamedTuple):
    """Tokens of a session, or of the rows that make it up."""

    reserved: int
    spent: int


def budgets(root: Path, seed: int, full: bool) -> dict[str, float]:
    """Ten times as many POSTs as a session can pay for, cancels, and a SIGKILL in between."""
    rounds = 20 if full else 2
    chance = random.Random(seed)
    with engines(root, pool_of(root, "--token-ms", "5"), queue={"capacity": POSTS}) as it:
        for _ in range(rounds):
            session = _session(it, chance, LIMIT)
            blocker = hold_the_slot(it)
            answers = _flood(it, chance, session)
            paid = _cancel_and_fill(it, chance, session, accepted(answers))
            it.client.cancel(blocker)
            _spent_exactly(it, session, paid)
            _cancel_while_running(it, chance, session)
    return {"posts": rounds * POSTS, "admitted at once, of each": AFFORDED, "overspent": 0}


def killed_budgets(root: Path, seed: int, full: bool) -> dict[str, float]:
    """SIGKILLs of orchestratord while tasks of a session wait, run, end and are canceled."""
    kills = 20 if full else 2
    chance = random.Random(seed)
    with engines(root, pool_of(root, "--token-ms", "5", slots=2)) as first:
        stack, session = first.stack, _session(first, chance, kills * 2 * LIMIT)
        tasks: list[str] = []
        for _ in range(kills):
            with TaskClient(stack) as client:
                it = Served(stack, client)
                posts = [_post(chance, session, f"a len={n % 8} b c") for n in range(12)]
                tasks += accepted(post_all(stack, posts))
                client.cancel(tasks[-1])
                time.sleep(chance.uniform(0, 0.2))
                stack.daemons["orchestratord"].stop(signal.SIGKILL)
            killed = _stored(stack, session)
            assert killed == _held_and_used(stack, session), "the session is what its tasks are"
            stack.start("orchestratord").wait_ready()
        stack.wait_serving(POOL)
        with TaskClient(stack) as client:
            it = Served(stack, client)
            assert len(tasks) == kills * 12
            _spent_exactly(it, session, tasks)
            interrupted = Counter((client.task(t)["error"] or {}).get("code") for t in tasks)
    return {
        "kills": kills,
        "tasks": len(tasks),
        "interrupted": interrupted["INTERRUPTED"],
        "wrong sums": 0,
    }


def _session(it: Served, chance: random.Random, limit: int) -> str:
    session, settings = any_id(chance), {"budget_tokens": limit, "max_turns": 100_000}
    with it.stack.client() as client:
        assert client.put(f"/v1/sessions/{session}", json=settings).status_code == 200
    return session


def _post(chance: random.Random, session: str, prompt: str = PROMPT) -> Post:
    return Post.of(chance, session_id=session, prompt=prompt, max_tokens=MAX_TOKENS)


def _flood(it: Served, chance: random.Random, session: str) -> list[Answer]:
    """Post more than there is money for: exactly what can be paid is admitted."""
    answers = post_all(it.stack, [_post(chance, session) for _ in range(POSTS)])
    statuses = Counter((answer.status, answer.body.get("code")) for answer in answers)
    assert statuses == {(202, None): AFFORDED, (403, "BUDGET_EXHAUSTED"): POSTS - AFFORDED}
    left = [_left(answer) for answer in answers if answer.status == 202]
    # Each answer tells what is left as it is sent, when others may hold theirs already.
    assert min(left) == 0
    assert all(0 <= tokens < LIMIT and tokens % HOLD == 0 for tokens in left)
    for answer in answers:
        if answer.status == 403:
            assert answer.body["details"]["budget"] == "tokens"
            assert answer.body["details"]["wanted"] == HOLD
    assert _told(it, session) == _held_and_used(it.stack, session) == Sums(LIMIT, 0)
    return answers


def _cancel_and_fill(
    it: Served, chance: random.Random, session: str, waiting: list[str]
) -> list[str]:
    """What queued tasks held comes back whole, and pays for as many others; all tasks."""
    for task_id in waiting[:2]:
        assert it.client.cancel(task_id) == 204
    assert _told(it, session) == Sums(LIMIT - 2 * HOLD, 0)
    again = post_all(it.stack, [_post(chance, session) for _ in range(3)], connections=1)
    assert [answer.status for answer in again] == [202, 202, 403]
    assert [_left(answer) for answer in again[:2]] == [HOLD, 0]
    return [*waiting, *accepted(again)]


def _cancel_while_running(it: Served, chance: random.Random, session: str) -> None:
    """A running task gives back what it did not use, to the token."""
    before = _told(it, session)
    post = _post(chance, session, "tell me len=1000")
    assert accepted(post_all(it.stack, [post]))
    stream = it.client.follow(post.task_id)
    next(event for event in stream if event.name == "token")
    assert _told(it, session).reserved == 3 + MAX_TOKENS
    assert it.client.cancel(post.task_id) == 204
    used = _usage(it, post.task_id)
    assert 3 < used < 3 + MAX_TOKENS, "canceled in the middle"
    assert _told(it, session) == Sums(0, before.spent + used)


def _spent_exactly(it: Served, session: str, tasks: list[str]) -> None:
    """Once all have ended, what was spent is what they used, and nothing is held."""
    ended(it.stack)
    until(lambda: _told(it, session).reserved == 0, ENDED_S, "all holds are given back")
    used = sum(_usage(it, task_id) for task_id in tasks)
    assert _told(it, session) == _held_and_used(it.stack, session) == Sums(0, used)
    assert _stored(it.stack, session) == Sums(0, used)


def _left(answer: Answer) -> int:
    return int(answer.headers["X-Budget-Tokens-Remaining"])


def _usage(it: Served, task_id: str) -> int:
    usage: dict[str, Any] = it.client.task(task_id)["usage"] or {"tokens_in": 0, "tokens_out": 0}
    return int(usage["tokens_in"]) + int(usage["tokens_out"])


def _told(it: Served, session: str) -> Sums:
    """What the session says of itself; within its limit, and adding up."""
    tokens = it.client.get(f"/v1/sessions/{session}").json()["budgets"]["tokens"]
    assert tokens["spent"] + tokens["reserved"] + tokens["remaining"] == tokens["limit"]
    return Sums(tokens["reserved"], tokens["spent"])


def _stored(stack: Stack, session: str) -> Sums:
    """The row of the session; within its limit."""
    statement = "SELECT * FROM sessions WHERE session_id = ?"
    (row,) = rows(stack, statement, [session])
    assert row["tokens_reserved"] + row["tokens_spent"] <= row["tokens_limit"]
    return Sums(row["tokens_reserved"], row["tokens_spent"])


def _held_and_used(stack: Stack, session: str) -> Sums:
    """The rows of its tasks: what the unfinished hold, and what the finished used."""
    statement = (
        "SELECT coalesce(sum(held_tokens) FILTER (WHERE finished_ms IS NULL), 0),"
        " coalesce(sum(coalesce(tokens_in, 0) + coalesce(tokens_out, 0))"
        " FILTER (WHERE finished_ms IS NOT NULL), 0) FROM tasks WHERE session_id = ?"
    )
    return Sums(*rows(stack, statement, [session])[0])
