"""`determinism verify` and `determinism prove` as they are run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from contracts.proofs import Round
from llama_orch.api import Api
from llama_orch.connection import Connection
from llama_orch.determinism import collector
from llama_orch.determinism.collector import Missing
from llama_orch.determinism.subject import Ask, header_of
from llama_orch.failures import Failed
from llama_orch.tests.made_proofs import bar, control, header, output, runs, written
from llama_orch.tests.scripted_server import Run, ScriptedServer, answer, refusal


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    return written(tmp_path / "proof.jsonl", header(), [*runs(), control(), bar()])


def test_verify_needs_no_daemon(run: Run, proof: Path) -> None:
    """LO-DET-011, LO-CMD-010: no network, no configuration, exit code 0."""
    done = run("determinism", "verify", str(proof))
    assert done.returncode == 0, done.stderr
    assert "ok     equal      256 runs of 64 seeds" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("proven: sha256:")
    assert "no evidence here: round engine_restarted" in done.stderr


def test_verify_tells_a_script_everything(run: Run, proof: Path) -> None:
    """LO-CMD-012, LO-DET-018."""
    told = json.loads(run("determinism", "verify", str(proof), "--json").stdout)
    assert told["proven"] is True
    assert all(check["passed"] for check in told["checks"])
    assert [each["replica_id"] for each in told["latency"]] == ["chat/0", "chat/1"]
    assert told["latency"][0]["devices"] == ["CPU"]


def test_verify_names_the_first_difference(run: Run, tmp_path: Path) -> None:
    """LO-DET-013: seed, replica and piece; exit code 1."""
    evidence = runs()
    evidence[70] = evidence[70].model_copy(update={"output": output(" né", " 7", "\u2028")})
    path = written(tmp_path / "p.jsonl", header(), evidence, proven=True)
    done = run("determinism", "verify", str(path), "--json")
    assert done.returncode == 1
    report, failure = map(json.loads, done.stdout.splitlines())
    assert report["difference"] == {
        "seed": 6,
        "replica_id": "chat/1",
        "round": "quiet",
        "other_replica_id": "chat/0",
        "other_round": "quiet",
        "index": 1,
    }
    assert "seed 6 on chat/1 (quiet) differs" in failure["error"]["message"]


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"{}\n", b"[" * 100_000 + b"\n", b"\x1b[2J\n"]
)
def test_what_is_no_proof_fails_in_one_line(run: Run, tmp_path: Path, content: bytes) -> None:
    """LO-DET-012, LO-CMD-011, LO-CMD-014."""
    path = tmp_path / "proof.jsonl"
    path.write_bytes(content)
    done = run("determinism", "verify", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path}: not proven: ")
    assert done.stderr.count("\n") == 1
    assert "\x1b[2J" not in done.stderr


def test_a_file_that_is_not_there_is_a_usage_mistake(run: Run, tmp_path: Path) -> None:
    """LO-CMD-010."""
    done = run("determinism", "verify", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "No such file" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pool", "chat", "--seeds", "8"), "--seeds"),
        (("--pool", "a b"), "is not a pool id"),
        (("--pool", "chat", "--sampler", "calm"), "--sampler: 'calm' is no profile"),
        (("--pool", "chat", "--prompt", ""), "--prompt: give a text"),
        (("--pool", "chat", "--out", "/no/such/p"), "--out: there is no directory /no/such"),
        ((), "--pool"),
    ],
)
def test_prove_refuses_what_cannot_be_asked(run: Run, options: tuple[str, ...], words: str) -> None:
    done = run("determinism", "prove", *options)
    assert done.returncode == 2
    assert words in done.stderr


CAPABILITIES: dict[str, Any] = {
    "api_version": "v1",
    "version": "0.1.0",
    "limits": {
        **dict.fromkeys(("body_bytes", "body_timeout_ms", "connections", "streams"), 1),
        **dict.fromkeys(("json_depth", "queue_capacity", "batch_max_wait_ms", "sessions"), 1),
        **dict.fromkeys(("session_ttl_ms", "session_max_turns", "stream_retention_ms"), 1),
        "queue_policy": "reject",
    },
    "engines": ["llamacpp"],
    "sampler_profiles": ["balanced-1"],
    "pools": [],
}
REPLICA: dict[str, Any] = {
    "state": "ready",
    "devices": [],
    "base_url": None,
    "engine_version": "v1",
    "model_digest": f"sha256:{'a' * 64}",
    "slots_total": 1,
    "slots_used": 0,
    "restarts": 0,
    "last_error": None,
    "kv_cache_usage": None,
}


def told_capabilities(strict: bool) -> dict[str, Any]:
    pool = {
        "pool_id": "chat",
        "engine": "llamacpp",
        "engine_version": "v1",
        "model_id": "m",
        "model_digest": REPLICA["model_digest"],
        "ctx_max": 128,
        "slots_total": 2,
        "slots_free": 2,
        "workloads": ["completion"],
        "features": [],
        "strict": strict,
        "strict_refusal": None if strict else "it decodes several tasks at once",
        "trtllm_version": None,
    }
    return CAPABILITIES | {"pools": [pool]}


def told_pools(*replicas: dict[str, Any]) -> dict[str, Any]:
    pool = {
        "pool_id": "chat",
        "live": True,
        "ready": True,
        "draining": False,
        "progressing": True,
        "restarts": 0,
        "breaker": "closed",
        "last_error": None,
        "replicas": [
            REPLICA | {"replica_id": f"chat/{number}"} | replica
            for number, replica in enumerate(replicas)
        ],
        "engine": "llamacpp",
        "model_id": "m",
        "model_ref": "file:/m.gguf",
        "ctx": 128,
        "slots": 1,
        "queue_depth": 0,
        "running": 0,
    }
    return {
        "items": [pool],
        "devices": [],
        "devices_age_ms": None,
        "pool_manager": "connected",
        "next_cursor": None,
    }


@pytest.mark.parametrize(
    ("strict", "replicas", "words"),
    [
        (False, ({}, {}), "pool chat does not promise equal bytes: it decodes several tasks"),
        (True, ({}, {"state": "starting"}), "chat/1 is starting: every replica"),
        (True, (), "pool chat has no replicas"),
        (True, ({}, {"engine_version": "v2"}), "tells as its engine_version: v1 and v2"),
        (True, ({}, {"model_digest": None}), "tells as its model_digest: nothing and sha256:"),
        (True, ({"model_digest": None},), "tells as its model_digest: nothing"),
    ],
)
def test_a_pool_that_is_no_subject_is_told_why(
    server: ScriptedServer, strict: bool, replicas: tuple[dict[str, Any], ...], words: str
) -> None:
    """LO-DET-016: nothing is run where nothing could be proven."""
    server.answers["GET /v1/capabilities"] = lambda h: answer(h, 200, told_capabilities(strict))
    server.answers["GET /v1/pools"] = lambda h: answer(h, 200, told_pools(*replicas))
    with pytest.raises(Failed, match=words):
        anyio.run(looked_up, server.url, "chat")
    assert not server.calls("POST /v1/tasks")


def test_a_pool_that_does_not_exist_is_told_with_those_that_do(server: ScriptedServer) -> None:
    """LO-DET-016."""
    server.answers["GET /v1/capabilities"] = lambda h: answer(h, 200, told_capabilities(True))
    server.answers["GET /v1/pools"] = lambda h: answer(h, 200, told_pools({}))
    with pytest.raises(Failed, match="there is no pool none; there are: chat"):
        anyio.run(looked_up, server.url, "none")


def test_prove_passes_on_what_the_server_refuses(
    run: Run, server: ScriptedServer, tmp_path: Path
) -> None:
    """LO-CMD-010: exit code 4, and no file."""
    server.answers["GET /v1/capabilities"] = lambda h: answer(h, 200, told_capabilities(True))
    server.answers["GET /v1/pools"] = lambda h: answer(h, 200, told_pools({}, {}))
    server.answers["POST /v1/tasks"] = refusal("INVALID_PARAMS", 400, "not strict any more")
    out = tmp_path / "p.jsonl"
    done = run("determinism", "prove", "--pool", "chat", "--url", server.url, "--out", str(out))
    assert done.returncode == 4
    assert "not strict any more" in done.stderr
    assert not out.exists()


def test_the_tries_are_bounded_where_the_server_is_always_full(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-DET-017."""
    monkeypatch.setattr(collector, "TRIES_OF_EACH", 1)
    server.answers["POST /v1/tasks"] = refusal("QUEUE_FULL", 429, retry_after_ms=0)

    async def collect() -> None:
        async with Api(connection_to(server.url)) as api:
            await collector.Collector(header(), print, print).round(api, Round.QUIET)

    with pytest.raises(ExceptionGroup) as caught:
        anyio.run(collect)
    told = str(caught.value.exceptions[0])
    assert told.startswith("gave up in round quiet: missing 64 on chat/0, 64 on chat/1; QUEUE_FULL")
    assert len(server.calls("POST /v1/tasks")) == 128


def connection_to(url: str) -> Connection:
    return Connection(url, None, "none")


async def looked_up(url: str, pool_id: str) -> None:
    ask = Ask(pool_id, "p", 8, header().sampler, header().seeds, header().rounds)
    async with Api(connection_to(url)) as api:
        await header_of(api, ask, 1)


def test_a_seed_is_asked_for_where_it_is_missing() -> None:
    """LO-DET-017: what the last replica lacks, else what is lacked most; nobody waits in vain."""
    missing = Missing(["a", "b"], [1, 2])
    assert missing.take(None) == 1
    assert missing.take(None) == 2, "a seed that runs already is asked for last"
    assert missing.give_back(1, "a")
    assert not missing.give_back(2, "elsewhere")
    assert missing.take("a") == 2
    assert missing.give_back(2, "a")
    assert missing.words() == "2 on b"
    assert missing.take("a") == 1
    assert not missing.give_back(1, "a"), "it landed where it had been"
    assert len(missing) == 2
    for seed in (1, 2):
        assert missing.take("b") == seed
        assert missing.give_back(seed, "b")
    assert missing.take("b") is None
