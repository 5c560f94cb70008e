"""How long logs are kept, and how many: LO-ORC-073."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from contracts.config import Streams
from orchestratord.runtime.log_shelf import LogShelf

pytestmark = pytest.mark.anyio


def shelf_with(*names: str, tokens: int = 10, **config: int) -> LogShelf:
    shelf = LogShelf(Streams(**config))
    for name in names:
        log = shelf.open(name)
        for _ in range(tokens):
            log.append_token("x" * 1_000)
    return shelf


def kept(shelf: LogShelf, names: str) -> str:
    return "".join(name for name in names if shelf.get(name) is not None)


def test_a_finished_log_is_kept_for_its_retention_and_no_longer() -> None:
    shelf = shelf_with("a", "b", retention_ms=1_000)
    shelf.finished("a", 10.0)
    shelf.evict(11.0 - 0.001, ())
    assert kept(shelf, "ab") == "ab"
    shelf.evict(11.0, ())
    assert kept(shelf, "ab") == "b"


def test_a_log_that_is_not_finished_is_never_dropped() -> None:
    shelf = shelf_with("a", "b", tokens=200, retention_ms=1, log_total_bytes=65_536)
    running = shelf.get("a")
    assert running is not None
    shelf.finished("b", 0.0)
    shelf.evict(1e9, (running,))
    assert kept(shelf, "ab") == "a"


def test_past_the_total_the_oldest_finished_go_first_and_only_as_many_as_needed() -> None:
    shelf = shelf_with("a", "b", "c", "d", tokens=30, log_total_bytes=65_536)
    for number, name in enumerate("cabd"):
        shelf.finished(name, float(number))
    assert kept(shelf, "abcd") == "bd", "held at once, not at the next sweep only"
    shelf.evict(4.0, ())
    assert kept(shelf, "abcd") == "bd"


def test_the_logs_of_running_tasks_count_towards_the_total() -> None:
    shelf = shelf_with("a", "b", tokens=40, log_total_bytes=65_536)
    shelf.finished("a", 0.0)
    shelf.evict(1.0, ())
    assert kept(shelf, "ab") == "ab"
    running = shelf.get("b")
    assert running is not None
    shelf.evict(1.0, (running,))
    assert kept(shelf, "ab") == "b"


async def test_a_log_is_followed_while_it_has_a_reader() -> None:
    shelf = shelf_with("a", "b")
    log = shelf.get("a")
    assert log is not None
    async with aclosing(log.follow(0)) as first:
        await anext(first)
        async with aclosing(log.follow(0)) as second:
            await anext(second)
            assert shelf.followed == {"a"}
        assert shelf.followed == {"a"}
    assert shelf.followed == set()


def test_the_bound_of_one_log_is_the_configured_one() -> None:
    shelf = shelf_with("a", tokens=100, log_bytes=65_536)
    log = shelf.get("a")
    assert log is not None
    assert log.bytes <= 65_536
