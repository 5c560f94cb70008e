"""`submit` for embeddings, reranks, structured and strict output, and `capabilities`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llama_orch.failures import ExitCode
from llama_orch.tests.scripted_server import Run, ScriptedServer, answer, end, event, refusal, sse
from llama_orch.tests.test_submit import ADMISSION, POST, STARTED, STREAM, SUBMIT

CAPABILITIES = {
    "api_version": "v1",
    "version": "0.1.0",
    "limits": dict.fromkeys(
        (
            *("body_bytes", "body_timeout_ms", "connections", "streams", "json_depth"),
            *("queue_capacity", "batch_max_wait_ms", "sessions", "session_ttl_ms"),
            *("session_max_turns", "stream_retention_ms"),
        ),
        1,
    )
    | {"queue_policy": "reject"},
    "engines": ["llamacpp"],
    "sampler_profiles": ["balanced-1", "greedy-1"],
}


def pool(pool_id: str, *workloads: str, **changes: Any) -> dict[str, Any]:
    return {
        "pool_id": pool_id,
        "engine": "llamacpp",
        "engine_version": "b1",
        "model_id": f"m-{pool_id}",
        "model_digest": None,
        "ctx_max": 512,
        "slots_total": 2,
        "slots_free": 1,
        "workloads": list(workloads),
        "features": ["seed", "stop"],
        "strict": True,
        "strict_refusal": None,
        "trtllm_version": None,
        **changes,
    }


def posted(server: ScriptedServer, result: dict[str, Any] | None = None) -> list[Any]:
    """What is sent, once something was."""
    bodies: list[Any] = []

    def keep(handler: Any) -> None:
        bodies.append(json.loads(handler.body))
        answer(handler, 202, ADMISSION)

    more = {} if result is None else {"result": result}
    server.answers[POST] = keep
    server.answers[STREAM] = lambda handler: sse(
        handler, event(1, "started", **STARTED), end(2, **more)
    )
    return bodies


def test_an_embedding_is_shown_by_its_size_and_first_numbers(
    run: Run, server: ScriptedServer
) -> None:
    """LO-CMD-080."""
    vectors = {"embeddings": [[0.125] * 8, [1, -2.5]]}
    bodies = posted(server, vectors)
    embed = (*SUBMIT, "--workload", "embedding", "--url", server.url)
    done = run(*embed, "--input", "one", "--input", "two")
    assert (bodies[0]["workload"], bodies[0]["inputs"]) == ("embedding", ["one", "two"])
    assert "max_tokens" not in bodies[0]
    assert done.stdout.split("\n")[:2] == [
        "0: 8 dimensions  [0.125, 0.125, 0.125, 0.125, 0.125, 0.125, …]",
        "1: 2 dimensions  [1, -2.5]",
    ]
    assert "3 tokens · queued 1 ms" in done.stderr
    run(*embed, stdin="from\na pipe\n")
    run(*embed, "alone")
    assert [body["inputs"] for body in bodies[1:]] == [["from", "a pipe"], ["alone"]]
    whole = run(*embed, "alone", "--json")
    assert json.loads(whole.stdout.split("\n")[-2])["data"]["result"] == vectors


def test_a_ranking_is_a_table_with_the_texts(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-080."""
    bodies = posted(server, {"ranking": [{"index": 1, "score": 2.5}, {"index": 0, "score": -1.0}]})
    rerank = (*SUBMIT, "--workload", "rerank", "--url", server.url)
    done = run(*rerank, "the query", "--input", "first text", "--input", "second text")
    assert bodies[0]["inputs"] == ["the query", "first text", "second text"]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1:3] == [["1", "1", "2.5", "second", "text"], ["2", "0", "-1", "first", "text"]]
    run(*rerank, "q", stdin="a\nb\n")
    assert bodies[1]["inputs"] == ["q", "a", "b"]


def test_a_result_of_megabytes_is_read(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-080."""
    posted(server, {"embeddings": [[0.123456789] * 500_000]})
    done = run(*SUBMIT, "--workload", "embedding", "x", "--url", server.url)
    assert done.stdout.startswith("0: 500000 dimensions  [0.123457, ")


def test_structured_and_strict_output_are_asked_for(
    run: Run, server: ScriptedServer, tmp_path: Path
) -> None:
    """LO-CMD-081."""
    bodies = posted(server)
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.gbnf"
    schema.write_text('{"type": "object"}')
    grammar.write_text("root ::= [a-z]+\n")
    arguments = (*SUBMIT, "hi", "--url", server.url)
    run(*arguments, "--json-schema", str(schema), "--strict", "--profile", "greedy-1")
    assert bodies[0]["json_schema"] == {"type": "object"}
    assert (bodies[0]["determinism"], bodies[0]["sampler_profile_version"]) == (
        "strict",
        "greedy-1",
    )
    run(*arguments, "--grammar", str(grammar))
    assert bodies[1]["grammar"] == "root ::= [a-z]+\n"
    assert not {"determinism", "sampler_profile_version", "json_schema"} & bodies[1].keys()
    server.answers[POST] = refusal("INVALID_PARAMS", 400, "determinism: 2 slots; set slots: 1")
    refused = run(*arguments, "--strict")
    assert refused.returncode == ExitCode.REFUSED
    assert "determinism: 2 slots; set slots: 1" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--workload", "poem", "x"), "--workload: write one of completion, chat, embedding"),
        (("--workload", "embedding", "--chat", "x"), "--chat and --system do not go with"),
        (("--input", "x", "hi"), "--input goes with --workload embedding or rerank"),
        ((), "PROMPT: missing"),
        (("--workload", "rerank", "q", "--input", ""), ""),
        (("--json-schema", "/nowhere", "x"), "--json-schema: /nowhere: No such file"),
        (("--json-schema", "{list}", "x"), "holds no JSON object"),
        (("--json-schema", "{text}", "x"), "is not JSON"),
        (("--grammar", "{text}", "--json-schema", "{object}", "x"), "not both"),
        (("--profile", "", "x"), "--profile: "),
    ],
)
def test_what_cannot_be_meant_is_a_usage_mistake(
    run: Run, server: ScriptedServer, tmp_path: Path, arguments: tuple[str, ...], why: str
) -> None:
    """LO-CMD-080, LO-CMD-081."""
    posted(server)
    files = {"list": "[]", "text": "a b", "object": "{}"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {name: str(tmp_path / name) for name in files}
    done = run(*SUBMIT, *(a.format(**paths) for a in arguments), "--url", server.url)
    assert done.returncode == (ExitCode.USAGE if why else ExitCode.OK)
    assert why in done.stderr
    assert bool(server.calls(POST)) == (not why)


def test_capabilities_say_what_each_pool_serves_and_why_not_strict(
    run: Run, server: ScriptedServer
) -> None:
    """LO-CMD-082."""
    pools = [
        pool("chat", "chat", "completion", strict=False, strict_refusal="2 slots; set slots: 1"),
        pool("vectors", "embedding", engine_version=None, slots_total=0),
        pool("theirs", "chat", engine="openai", engine_version=None),
    ]
    server.answers["GET /v1/capabilities"] = lambda handler: answer(
        handler, 200, {**CAPABILITIES, "pools": pools}
    )
    done = run("capabilities", "--url", server.url)
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for row in (
        *("pool chat", "workloads chat, completion", "features seed, stop"),
        *("strict no: 2 slots; set slots: 1", "strict yes", "slots 1 of 2 free"),
        *("engine llamacpp (no replica is ready)", "engine openai (does not tell its version)"),
        "sampler profiles balanced-1, greedy-1",
    ):
        assert row in rows
    whole = run("capabilities", "--url", server.url, "--json")
    assert [p["pool_id"] for p in json.loads(whole.stdout)["pools"]] == [
        "chat",
        "vectors",
        "theirs",
    ]


def test_the_one_model_that_serves_the_workload_is_taken(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-080."""
    bodies = posted(server)
    pools = [pool("chat", "chat", "completion"), pool("vectors", "embedding")]
    server.answers["GET /v1/capabilities"] = lambda handler: answer(
        handler, 200, {**CAPABILITIES, "pools": pools}
    )
    run("submit", "--workload", "embedding", "x", "--detach", "--url", server.url)
    run("submit", "x", "--detach", "--url", server.url)
    assert [body["model"] for body in bodies] == ["m-vectors", "m-chat"]


def test_a_pool_may_be_named_in_place_of_a_model(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-083."""
    bodies = posted(server)
    run("submit", "x", "--pool", "two", "--detach", "--url", server.url)
    assert (bodies[0]["pool_id"], "model" in bodies[0]) == ("two", False)
    run(*SUBMIT, "x", "--pool", "two", "--detach", "--url", server.url)
    assert (bodies[1]["pool_id"], "model" in bodies[1]) == ("two", True)
    wrong = run("submit", "x", "--pool", "a/b", "--url", server.url)
    assert (wrong.returncode, len(bodies)) == (ExitCode.USAGE, 2)
