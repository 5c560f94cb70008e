"""Q-7: a long prompt that shows progress is slow and not dead."""

from __future__ import annotations

import random
from pathlib import Path

from test_harness.chaos.queueing.engines import engines, pool_of
from test_harness.chaos.queueing.posts import Post, accepted, post_all
from test_harness.chaos.queueing.runs import runs_of
from test_harness.task_client import assert_grammar

FIRST_TOKEN_MS = 800
MS_PER_WORD = 10
BATCH = "4"
"""Words between two signs of progress."""


def slow_prefill(root: Path, seed: int, full: bool) -> dict[str, float]:
    """A prefill many times as long as `timeouts.first_token_ms`, with progress and without."""
    words = 6_000 if full else 300
    chance = random.Random(seed)
    prompts = ["word " * words, "fault=no-progress " + "word " * words]
    options = ("--prefill-ms-per-token", str(MS_PER_WORD), "--progress-every", BATCH)
    timeouts = {"first_token_ms": FIRST_TOKEN_MS, "drain_ms": 0}
    with engines(root, pool_of(root, *options, slots=2), timeouts=timeouts) as it:
        posts = [Post.of(chance, prompt=prompt, max_tokens=3) for prompt in prompts]
        slow, silent = accepted(post_all(it.stack, posts))
        events = it.client.collect(slow)
        assert_grammar(events)
        assert events[-1].name == "end"
        assert it.client.collect(silent)[-1].data["code"] == "DECODE_TIMEOUT", "the clock runs"
        took_ms: float = events[-1].data["first_token_ms"]
        assert took_ms >= words * MS_PER_WORD
        assert [it.client.task(task)["attempt"] for task in (slow, silent)] == [1, 1]
        assert len(runs_of(it.stack, [slow])) == 1
        (replica,) = it.client.get("/v1/pools/chat/health").json()["replicas"]
        assert replica["restarts"] == 0
    return {"first_token_ms": FIRST_TOKEN_MS, "prefill, ms": took_ms, "attempts": 1}
