"""What the way through orchestratord adds to the first token of a real engine."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import aiohttp
import uvloop

from contracts.ids import new_uuid
from contracts.tasks import TaskRequest
from orchestratord.stores.database import open_database
from orchestratord.stores.tasks import NewTask, TaskStore
from test_harness.bench.processes import BenchFailed, embedded_engine
from test_harness.bench.report import Answer, Figure, percentile
from test_harness.bench.streams import Endpoint, client, first_token_ms, task_endpoint
from test_harness.stack import Stack, running_stack
from worker_adapters.base import GenerationRequest
from worker_adapters.llamacpp_dialect import completion_body
from worker_adapters.tiny_gguf import write_model

REQUESTS = 200
WARM_UP = 20
MAX_TOKENS = 2
KEY = "a-key-for-a-benchmark"
PROMPT = "The river"


def measure(root: Path, rounds: int) -> Answer:
    """Alternate single requests to the engine and through orchestratord."""
    model, key_file = root / "tiny.gguf", root / "engine.key"
    write_model(model)
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    with embedded_engine(root, model, KEY) as engine:
        pool = {
            "id": "chat",
            "engine": "llamacpp",
            "model": {"id": "tiny", "ref": f"file:{model}"},
            "ctx": 4096,
            "slots": 1,
            "replicas": [{"devices": []}],
            "provisioning": {"mode": "external", "url": engine.url, "api_key_file": str(key_file)},
        }
        with running_stack(root, [pool]) as stack:
            stack.wait_serving("chat")
            return _measure(root, stack, engine.url, rounds)


def _measure(root: Path, stack: Stack, engine_url: str, rounds: int) -> Answer:
    asked = GenerationRequest(
        prompt=PROMPT, max_tokens=MAX_TOKENS, seed=1, slot=0, correlation_id=""
    )
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    direct = Endpoint(f"{engine_url}/completion", headers, completion_body(PROMPT, asked))
    task = task_endpoint(stack.url, stack.token, prompt=PROMPT, max_tokens=MAX_TOKENS)
    engine, ours = [], []
    for _ in range(rounds):
        of_engine, of_task = uvloop.run(_alternate(direct, task))
        engine.append(of_engine)
        ours.append(of_task)
    commits = [uvloop.run(_commits(root / f"commits-{number}.sqlite")) for number in range(rounds)]
    leases = [uvloop.run(_leases(stack)) for _ in range(rounds)]
    added = [statistics.median(b) - statistics.median(a) for a, b in zip(engine, ours, strict=True)]
    return Answer(
        question="Time to first token: through orchestratord, and at the engine",
        measured_how=(
            f"{rounds} rounds of {REQUESTS} requests to each in turn, one client; real llama.cpp,"
            " tiny model; a task makes three commits and one lease before its first token"
        ),
        figures=(
            Figure.of("engine direct, p50", [statistics.median(s) for s in engine], "ms"),
            Figure.of("engine direct, p90", [percentile(s, 0.9) for s in engine], "ms"),
            Figure.of("orchestratord, p50", [statistics.median(s) for s in ours], "ms"),
            Figure.of("orchestratord, p90", [percentile(s, 0.9) for s in ours], "ms"),
            Figure.of("added, p50", added, "ms", "<= 3"),
            Figure.of("one commit, p50", [statistics.median(s) for s in commits], "ms"),
            Figure.of("one lease, p50", [statistics.median(s) for s in leases], "ms"),
        ),
    )


async def _alternate(direct: Endpoint, task: Endpoint) -> tuple[list[float], list[float]]:
    engine, ours = [], []
    async with client() as session:
        for number in range(WARM_UP + REQUESTS):
            of_engine = await first_token_ms(session, direct)
            of_task = await first_token_ms(session, task)
            if number >= WARM_UP:
                engine.append(of_engine)
                ours.append(of_task)
    return engine, ours


async def _commits(path: Path) -> list[float]:
    """Insert tasks one by one into a database of its own on the same disk; ms each."""
    samples = []
    async with open_database(path) as database:
        store = TaskStore(database)
        for sequence in range(1, WARM_UP + REQUESTS + 1):
            task = _new_task(sequence)
            began = time.perf_counter()
            await store.insert(task)
            samples.append((time.perf_counter() - began) * 1000)
    return samples[WARM_UP:]


def _new_task(sequence: int) -> NewTask:
    task_id = new_uuid()
    request = TaskRequest(
        task_id=task_id, model="tiny", prompt=PROMPT, max_tokens=MAX_TOKENS, seed=1
    )
    return NewTask(
        task_id=task_id,
        sequence=sequence,
        body_sha256=bytes(32),
        request=request,
        correlation_id=task_id,
        pool_id="chat",
        seed=1,
        created_ms=time.time_ns() // 1_000_000,
    )


async def _leases(stack: Stack) -> list[float]:
    """Take and give back the one slot while nothing runs; ms of each taking."""
    samples = []
    holder = new_uuid()
    async with client() as session:
        for _ in range(WARM_UP + REQUESTS):
            samples.append(await _lease(session, stack, holder))
    return samples[WARM_UP:]


async def _lease(session: aiohttp.ClientSession, stack: Stack, holder: str) -> float:
    url = f"{stack.daemons['pool_managerd'].url}/v1/leases"
    body = {
        "replica_id": "chat/0",
        "task_id": new_uuid(),
        "epoch": 1,
        "ttl_ms": 30_000,
        "holder": holder,
    }
    began = time.perf_counter()
    async with session.post(url, json=body, headers=stack.headers) as answer:
        lease = await answer.json()
        took_ms = (time.perf_counter() - began) * 1000
        if answer.status != 201:
            raise BenchFailed(f"a lease was refused: {lease}")
    async with session.delete(f"{url}/{lease['lease_id']}", headers=stack.headers):
        return took_ms
