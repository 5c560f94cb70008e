"""`GET /v1/replicas/{pool_id}/{index}/log` of a real daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool_managerd.tests.test_daemon import fake_pool, ready, snapshot
from test_harness.stack import Stack, wait_for

pytestmark = pytest.mark.slow
PATH = "/v1/replicas/fake/0/log"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """pool_managerd with one replica that serves."""
    made = Stack(tmp_path, [fake_pool(tmp_path)], limits={"streams": 2})
    try:
        made.start("pool_managerd").wait_ready()
        wait_for(lambda: ready(made), "the stand-in serves")
        yield made
    finally:
        made.stop()


def write(stack: Stack, content: bytes) -> None:
    """As the engine does."""
    with (stack.state_dir / "logs" / "fake@0.log").open("ab") as log:
        log.write(content)


def test_the_last_lines_are_told_without_the_key(stack: Stack) -> None:
    """LO-POOL-126, LO-POOL-128."""
    with stack.client("pool_managerd") as client:
        key = client.get("/v1/replicas/fake/0/endpoint").json()["api_key"]
        write(stack, b"".join(b"%d\n" % n for n in range(300)) + f"key {key} \x1b\n".encode())
        answer = client.get(PATH)
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        lines = answer.text.splitlines()
        assert len(lines) == 200
        assert lines[-2:] == ["299", "key [redacted] \N{REPLACEMENT CHARACTER}"]
        assert client.get(PATH, params={"tail": 2}).text.splitlines() == lines[-2:]
        assert client.get(PATH, params={"tail": 0}).text == ""
        assert client.head(PATH, params={"follow": "true"}).status_code == 200
        assert client.get(PATH, headers={"Authorization": ""}).status_code == 401
        for wrong in ({"tail": "10001"}, {"tail": "-1"}, {"tail": "x"}, {"follow": "1"}):
            assert client.get(PATH, params=wrong).status_code == 400
        assert client.get("/v1/replicas/fake/9/log").status_code == 404


def test_a_follower_goes_on_over_a_restart_and_ends_with_the_daemon(stack: Stack) -> None:
    """LO-POOL-127."""
    seen: list[str] = []
    pid = snapshot(stack).pools[0].replicas[0].pid
    assert pid is not None
    write(stack, b"before\n")
    params = {"follow": "true", "tail": "1"}
    with (
        stack.client("pool_managerd") as client,
        client.stream("GET", PATH, params=params) as stream,
    ):
        for line in stream.iter_lines():
            seen.append(line)
            if line == "before":
                os.kill(pid, signal.SIGKILL)
                wait_for(
                    lambda: ready(stack) and snapshot(stack).pools[0].replicas[0].pid != pid,
                    "another one serves",
                )
                write(stack, b"after\n")
            elif line == "after":
                stack.daemons["pool_managerd"].process.send_signal(signal.SIGTERM)
    assert (seen[0], seen[-1]) == ("before", "after")
    assert stack.daemons["pool_managerd"].stop() == 0


def test_followers_are_counted_and_one_that_leaves_counts_no_more(stack: Stack) -> None:
    """LO-POOL-129."""
    params = {"follow": "true"}
    with stack.client("pool_managerd") as client:
        with (
            client.stream("GET", PATH, params=params) as first,
            client.stream("GET", PATH, params=params) as second,
        ):
            assert (first.status_code, second.status_code) == (200, 200)
            assert client.get(PATH).status_code == 429
        wait_for(lambda: client.get(PATH).status_code == 200, "the places are free again")
