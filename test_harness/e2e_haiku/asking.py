"""Ask a running instance for a haiku over its public API, and record every fact around it."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

from contracts.ids import new_uuid
from llama_orch.connection import Connection, discover, discover_pool_managerd
from test_harness.e2e_haiku.checker import COUNTED
from test_harness.e2e_haiku.facts import Counters, Facts, Process, minute_words
from test_harness.stack import Stack, wait_for
from test_harness.task_client import Event, parse

BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Instance:
    """Both daemons, and the model that a pool serves from the operator's file."""

    orchestratord: httpx2.Client
    pool_managerd: httpx2.Client
    pool_id: str
    model: Path


@contextmanager
def of_stack(stack: Stack, pool_id: str, model: Path) -> Iterator[Instance]:
    """An instance that was started for this."""
    with stack.client() as tasks, stack.client("pool_managerd") as pools:
        yield Instance(tasks, pools, pool_id, model)


@contextmanager
def of_running(url: str, pool_id: str, model: Path) -> Iterator[Instance]:
    """The operator's own instance, as the command would find it."""
    with (
        _client(discover(url, None)) as tasks,
        _client(discover_pool_managerd(None, None)) as pools,
    ):
        yield Instance(tasks, pools, pool_id, model)


def ask(instance: Instance, max_tokens: int) -> Facts:
    """One haiku, with the words of this minute and of no other prompt; minutes are of TZ."""
    minute = minute_words(datetime.now().astimezone().minute)
    nonce = _made_up_word()
    messages = [{"role": "user", "content": _question(minute, nonce)}]
    replicas = _replicas(instance)
    before = {name: _counters(instance, name) for name in replicas}
    task_id = new_uuid()
    body = {
        "task_id": task_id,
        "pool_id": instance.pool_id,
        "workload": "chat",
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0.0,
    }
    answer = instance.orchestratord.post("/v1/tasks", json=body)
    assert answer.status_code == 202, answer.text
    events, leases = _follow(instance, task_id)
    replica_id = str(next(e.data for e in events if e.name == "started")["replica_id"])
    wait_for(lambda: _leases(instance, replica_id) == 0, "the lease is given back")
    return Facts(
        minute=minute,
        nonce=nonce,
        events=tuple(events),
        task=instance.orchestratord.get(f"/v1/tasks/{task_id}").json(),
        file_digest=_sha256(instance.model),
        before=before[replica_id],
        after=_counters(instance, replica_id),
        leases_during=leases,
        leases_after=_leases(instance, replica_id),
        prompt_tokens=_prompt_tokens(instance, replica_id, messages),
        processes=_processes(int(replicas[replica_id]["pid"])),
    )


def _question(minute: str, nonce: str) -> str:
    return (
        "Write a haiku about a river. It must contain the words"
        f' "{minute}" and "{nonce}", spelled exactly so. Answer with the haiku alone.'
    )


def _made_up_word() -> str:
    """Three syllables that are no word, from chance that nobody can know beforehand."""
    chance = random.SystemRandom()
    return "".join(chance.choice("bdfgklmnprstvz") + chance.choice("aeiou") for _ in range(3))


def _follow(instance: Instance, task_id: str) -> tuple[list[Event], float]:
    """The whole stream, and the leases of its replica as soon as it has started."""
    events: list[Event] = []
    leases: float | None = None
    path = f"/v1/tasks/{task_id}/stream"
    with instance.orchestratord.stream("GET", path, timeout=600.0) as answer:
        for event in parse(answer.iter_raw()):
            events.append(event)
            if event.name == "started":
                leases = _leases(instance, str(event.data["replica_id"]))
    return events, leases or 0.0


def _replicas(instance: Instance) -> dict[str, dict[str, Any]]:
    health = instance.orchestratord.get(f"/v1/pools/{instance.pool_id}/health").json()
    return {replica["replica_id"]: replica for replica in health["replicas"]}


def _counters(instance: Instance, replica_id: str) -> Counters:
    text = instance.orchestratord.get("/metrics").text
    return {name: _sum(text, name, replica_id) for name, _ in COUNTED}


def _leases(instance: Instance, replica_id: str) -> float:
    return _sum(instance.pool_managerd.get("/metrics").text, "active_leases", replica_id)


def _sum(text: str, name: str, replica_id: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.endswith(name) and sample.labels.get("replica_id") == replica_id
    )


def _prompt_tokens(instance: Instance, replica_id: str, messages: list[dict[str, str]]) -> int:
    """By the engine itself, past both daemons."""
    found = instance.pool_managerd.get(f"/v1/replicas/{replica_id}/endpoint").json()
    headers = {"Authorization": f"Bearer {found['api_key']}"}
    with httpx2.Client(
        base_url=found["base_url"], headers=headers, timeout=30.0, trust_env=False
    ) as engine:
        prompt = engine.post("/apply-template", json={"messages": messages}).json()["prompt"]
        asked = {"content": prompt, "add_special": True, "parse_special": True}
        return len(engine.post("/tokenize", json=asked).json()["tokens"])


def _processes(leader: int) -> tuple[Process, ...]:
    """Every process of the replica's group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader:
                found.append(Process(process.exe(), tuple(process.cmdline())))
        except (psutil.Error, ProcessLookupError):
            continue
    return tuple(found)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _client(connection: Connection) -> httpx2.Client:
    assert connection.token is not None, f"no token in {connection.token_source}"
    headers = {"Authorization": f"Bearer {connection.token.reveal()}"}
    return httpx2.Client(base_url=connection.url, headers=headers, timeout=30.0, trust_env=False)
