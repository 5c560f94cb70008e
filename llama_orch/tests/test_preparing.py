"""How a download is shown while it runs."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

from contracts.capabilities import PoolPage
from llama_orch.preparing import Speeds, bars, downloads, figures, state_words

MIB = 1024 * 1024


def page(**preparation: Any) -> PoolPage:
    told = {"phase": "downloading", "what": "o/r/m.gguf", "since_ms": 1} | preparation
    replica: dict[str, Any] = {
        "replica_id": "chat/0",
        "state": "provisioning",
        "devices": [],
        "base_url": None,
        "engine_version": None,
        "model_digest": None,
        "slots_total": 0,
        "slots_used": 0,
        "restarts": 0,
        "last_error": None,
        "kv_cache_usage": None,
        "preparation": told,
    }
    pool = {
        "pool_id": "chat",
        "live": False,
        "ready": False,
        "draining": False,
        "progressing": True,
        "restarts": 0,
        "breaker": "closed",
        "last_error": None,
        "replicas": [replica],
        "engine": "llamacpp",
        "model_id": "m",
        "model_ref": "hf:o/r/m.gguf",
        "ctx": 16,
        "slots": 1,
        "queue_depth": 0,
        "running": 0,
    }
    fields = {"items": [pool], "devices": [], "devices_age_ms": None, "pool_manager": "connected"}
    return PoolPage.model_validate_json(json.dumps(fields | {"next_cursor": None}))


def drawn(of: PoolPage, speeds: Speeds) -> str:
    console = Console(width=120, force_terminal=False)
    with console.capture() as captured:
        console.print(bars(of, speeds))
    return captured.get()


def test_a_bar_shows_bytes_speed_and_the_time_left() -> None:
    """LO-POOL-122."""
    now = [0.0]
    speeds = Speeds(clock=lambda: now[0])
    speeds.observe(page(done=10 * MIB, total=100 * MIB))
    line = drawn(page(done=10 * MIB, total=100 * MIB), speeds)
    assert "10.0 MiB of 100.0 MiB" in line
    assert "/s" not in line, "one look tells no speed"
    now[0] = 2.0
    latest = page(done=30 * MIB, total=100 * MIB)
    speeds.observe(latest)
    line = drawn(latest, speeds)
    assert line.startswith("chat/0 ━")
    assert "30%  30.0 MiB of 100.0 MiB  10.0 MiB/s  7.0 s left" in line


def test_speed_is_that_of_the_last_seconds_and_of_one_file() -> None:
    now = [0.0]
    speeds = Speeds(clock=lambda: now[0])
    for second, done in enumerate([0, *[100 * MIB] * 12]):
        now[0] = float(second)
        speeds.observe(page(done=done, total=1000 * MIB))
    (replica,) = page(done=100 * MIB, total=1000 * MIB).items[0].replicas
    assert speeds.of(replica) == 0
    speeds.observe(page(done=5, total=10, what="another"))
    assert speeds.of(replica) is None


def test_what_is_not_known_is_left_out() -> None:
    told = page(done=5 * MIB).items[0].replicas[0].preparation
    assert told is not None
    assert figures(told, 1024.0) == "5.0 MiB  1.0 KiB/s"
    assert bars(page(phase="resolving"), Speeds()) is None
    assert not downloads(page(phase="resolving"))


def test_words_change_with_each_quarter_and_no_oftener() -> None:
    """LO-POOL-122: where stderr is no terminal, a change is a line."""
    seen = [state_words(page(done=done, total=100).items[0].replicas[0]) for done in range(101)]
    assert list(dict.fromkeys(seen)) == [
        "downloading o/r/m.gguf",
        "downloading o/r/m.gguf, 25% of 100 B",
        "downloading o/r/m.gguf, 50% of 100 B",
        "downloading o/r/m.gguf, 75% of 100 B",
        "downloading o/r/m.gguf, 100% of 100 B",
    ]
    hostile = page(what="a\x1b[2J").items[0].replicas[0]
    assert "\x1b" not in state_words(hostile)
