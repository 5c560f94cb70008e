"""`pools`, `pools health`, `drain`, `reload` and `resume` against a scripted server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from llama_orch.failures import ExitCode, UsageMistake
from llama_orch.options import time_span_ms
from llama_orch.tests.scripted_server import Run, ScriptedServer, answer, refusal

NEW = "file:/models/new.gguf"
OLD = "file:/models/old.gguf"


def reload_view(state: str, message: str = "loading", to_ref: str = NEW) -> dict[str, Any]:
    return {"state": state, "from_ref": OLD, "to_ref": to_ref, "message": message, "at_ms": 1}


def pool(**fields: Any) -> dict[str, Any]:
    return {
        "pool_id": "chat",
        "live": True,
        "ready": True,
        "draining": False,
        "progressing": True,
        "restarts": 0,
        "breaker": "closed",
        "last_error": None,
        "replicas": [],
        "degraded": False,
        "reload": None,
        "engine": "llamacpp",
        "model_id": "tiny",
        "model_ref": OLD,
        "ctx": 512,
        "slots": 1,
        "queue_depth": 2,
        "running": 0,
        **fields,
    }


def coming_up(done: int) -> dict[str, Any]:
    what = {"phase": "loading", "what": "new.gguf", "done": done, "total": 100, "since_ms": 1}
    return {
        "replica_id": "chat/1",
        "state": "starting",
        "devices": [],
        "base_url": None,
        "engine_version": None,
        "model_digest": None,
        "slots_total": 0,
        "slots_used": 0,
        "restarts": 0,
        "last_error": None,
        "kv_cache_usage": None,
        "preparation": what,
    }


def changed(change: str, **fields: Any) -> dict[str, Any]:
    return {
        "pool_id": "chat",
        "change": change,
        "draining": change == "drain",
        "cut_at_ms": None,
        "instance_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
        "version": 2,
        **fields,
    }


def script(server: ScriptedServer, change: str, pools: Sequence[dict[str, Any]]) -> list[Any]:
    """Plays `pools` to one look each, the last for ever; returns the bodies of the change."""
    left, bodies = list(pools), list[Any]()

    def look(handler: BaseHTTPRequestHandler) -> None:
        page = {"items": [left.pop(0) if len(left) > 1 else left[0]], "devices": []}
        more = {"devices_age_ms": None, "pool_manager": "connected", "next_cursor": None}
        answer(handler, 200, page | more)

    def begin(handler: Any) -> None:
        bodies.append(json.loads(handler.body) if handler.body else None)
        answer(handler, 202, changed(change))

    server.answers["GET /v1/pools"] = look
    server.answers[f"POST /v1/pools/chat/{change}"] = begin
    return bodies


def test_pools_lists_every_pool(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-057."""
    script(server, "drain", [pool(draining=True, ready=False)])
    done = run("pools", "--url", server.url)
    assert done.returncode == ExitCode.OK
    assert "chat" in done.stdout
    assert "draining" in done.stdout


def test_nobody_claims_that_a_server_of_others_is_on_the_cpu(
    run: Run, server: ScriptedServer
) -> None:
    """LO-CMD-086."""
    serving = {**coming_up(100), "state": "ready", "preparation": None, "slots_total": 1}
    theirs, ours = {**serving, "pid": None}, {**serving, "replica_id": "chat/0", "pid": 4242}
    script(server, "drain", [pool(replicas=[ours, theirs])])
    rows = [line.split() for line in run("ps", "--url", server.url).stdout.splitlines()]
    assert ["chat/0", "ready", "0/1", "CPU", "4242"] in rows
    assert ["chat/1", "ready", "0/1"] in rows


def test_health_shows_one_pool(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-057."""
    of_a_status = ("engine", "model_id", "model_ref", "ctx", "slots", "queue_depth", "running")
    found = pool(replicas=[coming_up(1)], reload=reload_view("running"))
    health = {name: value for name, value in found.items() if name not in of_a_status}
    server.answers["GET /v1/pools/chat/health"] = lambda handler: answer(handler, 200, health)
    out = run("pools", "health", "chat", "--url", server.url).stdout
    for words in ("progressing", "running: file:/models/new.gguf: loading", "chat/1"):
        assert words in out
    told = run("pools", "health", "chat", "--url", server.url, "--json").stdout
    assert json.loads(told)["pool_id"] == "chat"


def test_a_time_is_read_with_its_unit() -> None:
    texts = ("30s", "500ms", "5m", "1.5", "0", "168h")
    assert [time_span_ms("--deadline", text) for text in texts] == [
        30_000,
        500,
        300_000,
        1_500,
        0,
        604_800_000,
    ]
    for text in ("soon", "-1s", "1 s", "1d", "169h", "30s\n", ""):
        with pytest.raises(UsageMistake, match="--deadline"):
            time_span_ms("--deadline", text)


def test_a_deadline_is_sent_in_milliseconds(run: Run, server: ScriptedServer) -> None:
    bodies = script(server, "drain", [pool()])
    done = run("pools", "drain", "chat", "--deadline", "30s", "--url", server.url, "--json")
    assert (done.returncode, bodies) == (ExitCode.OK, [{"deadline_ms": 30_000}])
    assert json.loads(done.stdout)["draining"] is True


def test_drain_waits_until_nothing_runs(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-056."""
    looks = [pool(draining=True, running=running) for running in (2, 1, 0)]
    script(server, "drain", looks)
    done = run("pools", "drain", "chat", "--wait", "--url", server.url)
    assert done.returncode == ExitCode.OK
    assert "waiting for 2 running tasks" in done.stderr
    assert len(server.calls("GET /v1/pools")) == 3


def test_a_drain_that_was_resumed_meanwhile_fails(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-056."""
    script(server, "drain", [pool(draining=True, running=1), pool(running=1)])
    done = run("pools", "drain", "chat", "--wait", "--url", server.url)
    assert (done.returncode, "was resumed" in done.stderr) == (ExitCode.FAILED, True)


def test_reload_follows_to_the_end_and_shows_the_steps(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-055."""
    under_way = [pool(reload=reload_view("running"), replicas=[coming_up(n)]) for n in (10, 60)]
    ended = pool(reload=reload_view("succeeded"), model_ref=NEW)
    bodies = script(server, "reload", [pool(), *under_way, ended])
    done = run("pools", "reload", "chat", NEW, "--url", server.url)
    assert (done.returncode, bodies) == (ExitCode.OK, [{"new_model_ref": NEW}])
    assert done.stderr.count("loading (loading new.gguf)") == 1
    assert f"pool chat serves {NEW}" in done.stderr


def test_a_reload_that_rolled_back_says_why_and_what_serves(
    run: Run, server: ScriptedServer
) -> None:
    """LO-CMD-055."""
    earlier = pool(reload=reload_view("rolled_back", "an earlier one"))
    back = pool(reload=reload_view("rolled_back", "no token came"))
    script(server, "reload", [earlier, earlier, back])
    done = run("pools", "reload", "chat", NEW, "--url", server.url)
    assert done.returncode == ExitCode.FAILED
    assert f"was rolled back: no token came; it serves {OLD}" in done.stderr


def test_a_reload_to_what_is_served_is_done(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-055."""
    there = pool(reload=reload_view("succeeded"), model_ref=NEW)
    script(server, "reload", [there])
    done = run("pools", "reload", "chat", NEW, "--url", server.url, "--json")
    assert done.returncode == ExitCode.OK
    assert json.loads(done.stdout)["model_ref"] == NEW


def test_a_reload_is_not_followed_when_told_so(run: Run, server: ScriptedServer) -> None:
    script(server, "reload", [pool()])
    done = run("pools", "reload", "chat", NEW, "--no-wait", "--url", server.url)
    assert done.returncode == ExitCode.OK
    assert len(server.calls("GET /v1/pools")) == 1


def test_resume_is_posted_and_refusals_are_told(run: Run, server: ScriptedServer) -> None:
    script(server, "resume", [pool()])
    assert run("pools", "resume", "chat", "--url", server.url).returncode == ExitCode.OK
    server.answers["POST /v1/pools/chat/resume"] = refusal("NOT_FOUND", 404, "no such pool")
    done = run("pools", "resume", "chat", "--url", server.url)
    assert (done.returncode, done.stderr) == (ExitCode.REFUSED, "error: NOT_FOUND: no such pool\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("drain", "chat", "--deadline", "soon"), "--deadline"),
        (("reload", "chat", "no-ref"), "MODEL_REF"),
        (("reload", "chat", NEW, "--digest", "md5:1"), "--digest"),
        (("resume", "a/b"), "not a pool id"),
    ],
)
def test_what_makes_no_sense_is_a_usage_mistake(
    run: Run, server: ScriptedServer, arguments: tuple[str, ...], named: str
) -> None:
    """LO-CMD-010."""
    done = run("pools", *arguments, "--url", server.url)
    assert (done.returncode, named in done.stderr) == (ExitCode.USAGE, True)
    assert server.seen == []
