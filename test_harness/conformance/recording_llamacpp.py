"""What real llama.cpp is asked for its transcripts, and how it is started for that."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.pools import PoolWorkload
from contracts.service.settings import child_environment
from test_harness.conformance.transcripts import Exchange, Question, ask
from test_harness.ports import free_port
from worker_adapters.base import GenerationRequest, LaunchSpec
from worker_adapters.llamacpp_dialect import completion_body, text_body
from worker_adapters.llamacpp_launch import EmbeddedLauncher
from worker_adapters.llamacpp_schema import trial_body
from worker_adapters.llamacpp_vectors import embedding_body, rank_body
from worker_adapters.tiny_gguf import write_model

KEY = "a-key-of-this-recording"
CTX = 512
START_S = 60.0
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "count": {"enum": [1, 2, 3]}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
SCHEMA_SEED = 4
"""With which the random model comes to an end: it likes white space."""
PASSED_OVER = {"type": "array", "uniqueItems": True}
MESSAGES = [{"role": "user", "content": "tell of a stone"}]
LONG = " river" * 300
CHAT = {"messages": MESSAGES, "max_tokens": 6, "seed": 3, "temperature": 0.8}


def _completion(prompt: str, **fields: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"max_tokens": 8, "seed": 3, "slot": 1}
    request = GenerationRequest(prompt=prompt, correlation_id="c", **(given | fields))
    return _read(completion_body(prompt, request))


def _trial(schema: dict[str, Any]) -> dict[str, Any]:
    request = GenerationRequest(
        prompt="x", max_tokens=1, seed=1, json_schema=schema, correlation_id="c", slot=0
    )
    return _read(trial_body(request))


def _read(body: bytes) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(body)
    return read


GENERATION = (
    Question("slots-unused", "/slots"),
    Question("completion", "/completion", _completion("The river")),
    Question("completion-progress", "/completion", _completion(LONG, max_tokens=2)),
    Question("completion-cached", "/completion", _completion(LONG + " stone", max_tokens=2)),
    Question("completion-stop", "/completion", _completion("The river", stop=(" ",))),
    Question("completion-no-such-slot", "/completion", _completion("The river", slot=9)),
    Question(
        "completion-schema",
        "/completion",
        _completion("x", seed=SCHEMA_SEED, max_tokens=200, json_schema=SCHEMA),
    ),
    Question("completion-grammar", "/completion", _completion("x", grammar="root ::= [0-9]{3}")),
    Question("trial-held", "/completion", _trial(SCHEMA)),
    Question("trial-passed-over", "/completion", _trial(PASSED_OVER)),
    Question("template", "/apply-template", {"messages": MESSAGES}),
    Question(
        "chat",
        "/v1/chat/completions",
        CHAT | {"stream": True, "stream_options": {"include_usage": True}},
    ),
    Question("chat-whole", "/v1/chat/completions", CHAT),
    Question("tokens", "/tokenize", _read(text_body("The river"))),
    Question("props", "/props"),
    Question("slots", "/slots"),
    Question("metrics", "/metrics"),
    Question("models", "/v1/models"),
    Question("health", "/health", has_key=False),
    Question("error-key", "/v1/models", has_key=False),
    Question("error-path", "/nowhere", {}),
    Question("error-method", "/completion"),
    Question("error-json", "/completion", "{no json"),
    Question("error-no-prompt", "/completion", {}),
    Question("error-type", "/completion", {"prompt": "x", "n_predict": "many"}),
    Question("error-token", "/completion", {"prompt": [99_999_999], "n_predict": 1}),
    Question("error-grammar", "/completion", _completion("x", grammar="root ::= [")),
    Question("error-penalty", "/completion", _completion("x", repetition_penalty=-1.0)),
    Question("error-context", "/completion", _completion(LONG * 2)),
    Question("error-template", "/apply-template", {"messages": 3}),
    Question("error-embeddings-off", "/v1/embeddings", {}),
    Question("error-rerank-off", "/v1/rerank", {}),
)
EMBEDDING = (
    Question("embeddings", "/v1/embeddings", _read(embedding_body(["The river", "a stone"]))),
    Question(
        "embeddings-decimal",
        "/v1/embeddings",
        {"input": ["The river", "a stone"], "encoding_format": "float"},
    ),
    Question("embeddings-probe", "/v1/embeddings", {}),
    Question("props-embedding", "/props"),
    Question("error-embeddings-empty", "/v1/embeddings", _read(embedding_body([""]))),
    Question("error-embeddings-long", "/v1/embeddings", _read(embedding_body([LONG * 2]))),
)
RERANK = (
    Question("rerank", "/v1/rerank", _read(rank_body("stone", ["The river", "a stone", "oak"]))),
    Question("rerank-probe", "/v1/rerank", {}),
    Question("error-rerank-long", "/v1/rerank", _read(rank_body("stone", [LONG * 2]))),
)
NO_POOLING = (Question("error-no-pooling", "/v1/embeddings", {}),)
ONE_SLOT = (Question("props-tools", "/props"), Question("slots-one", "/slots"))
LOADING = Question("error-loading", "/props")

RUNS: tuple[tuple[str, PoolWorkload, int, tuple[Question, ...]], ...] = (
    ("tiny", "generation", 2, GENERATION),
    ("embedding", "embedding", 2, EMBEDDING),
    ("rerank", "rerank", 2, RERANK),
    ("tiny", "embedding", 2, NO_POOLING),
    ("tools", "generation", 1, ONE_SLOT),
)
"""The preset of the model, what the server is for, its slots, and what it is asked."""


def record(folder: Path) -> tuple[str, Iterator[Exchange]]:
    """The embedded engine, and all its answers."""
    return EmbeddedLauncher().engine_version() or "llama.cpp", _exchanges(folder)


def _exchanges(folder: Path) -> Iterator[Exchange]:
    for preset, workload, slots, questions in RUNS:
        with _started(folder, preset, workload, slots) as port:
            _until_it_serves(port)
            for question in questions:
                yield ask(port, KEY, question)
    with _started(folder, "demo", "generation", 1) as port:
        yield _first_answer(port, LOADING)


@contextmanager
def _started(folder: Path, preset: str, workload: PoolWorkload, slots: int) -> Iterator[int]:
    """An engine that was started; ended by SIGTERM.

    It runs in `folder` and knows its model by a bare name, which `/props` repeats.
    """
    model = Path(f"{preset}.gguf")
    write_model(folder / model, preset)
    spec = LaunchSpec(
        model_path=model,
        model_alias="tiny",
        host="127.0.0.1",
        port=free_port(),
        ctx=CTX,
        slots=slots,
        device_uuids=(),
        engine_args=(),
        api_key=KEY,
        workload=workload,
    )
    plan = EmbeddedLauncher().plan(spec)
    process = subprocess.Popen(
        plan.argv, env=child_environment(plan.env), cwd=folder, stderr=subprocess.DEVNULL
    )
    try:
        yield spec.port
    finally:
        process.terminate()
        process.wait(START_S)


def _until_it_serves(port: int) -> None:
    deadline = time.monotonic() + START_S
    while b" 200 " not in _first_answer(port, Question("", "/health")).answer[:20]:
        if time.monotonic() > deadline:
            raise TimeoutError("the engine does not begin to serve")
        time.sleep(0.01)


def _first_answer(port: int, question: Question) -> Exchange:
    """The answer of the first moment in which the port is open."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            return ask(port, KEY, question)
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
