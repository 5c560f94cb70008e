"""Strict tasks and sampler profiles: what the engine is sent, and when it is sent nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from contracts.errors import ErrorCode, Refusal
from contracts.ids import new_uuid
from contracts.pools import ReplicaView
from contracts.sampler_profiles import DEFAULT_STRICT, SamplerProfile
from contracts.service.sampler_profiles import OWN, load_sampler_profiles
from orchestratord.http.task_view import task_view
from orchestratord.tests.builders import abilities, replica
from orchestratord.tests.runtime.world import GREETING, World, error_of, world_at
from worker_adapters.base import Finished, GenerationRequest, Token
from worker_adapters.scripted import Fault

pytestmark = pytest.mark.anyio

SESSION = new_uuid()
STRICT: dict[str, Any] = {"determinism": "strict", "seed": 7}
OTHER = "sha256:" + "1" * 64
BARRED = abilities(strict_refusal="2 slots share a batch; set slots: 1")
CALM = """
temperature: 0.3
top_p: 0.9
top_k: 20
min_p: 0.1
repetition_penalty: 1.2
presence_penalty: 0.1
frequency_penalty: 0.2
"""


def able(number: int = 0, **changes: Any) -> ReplicaView:
    return replica(number, slots=2, capabilities=abilities()).model_copy(update=changes)


def sent(world: World) -> GenerationRequest:
    return world.engines.clients[-1].requests[-1]


def sampling(request: GenerationRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in SamplerProfile.model_fields}


async def test_a_strict_task_says_every_parameter_and_uses_no_cache(world: World) -> None:
    """LO-ORC-171."""
    world.serve(able())
    accepted = await world.submit(**STRICT, temperature=0.5, kv_hint="reuse")
    await world.frames(accepted)
    profile = load_sampler_profiles(world.path.parent)[DEFAULT_STRICT].model_dump()
    assert sampling(sent(world)) == profile | {"temperature": 0.5}
    assert (sent(world).cache_prompt, sent(world).seed) == (False, 7)
    assert (await world.row(accepted))["sampler_profile_version"] == DEFAULT_STRICT
    assert task_view(await world.history.get(accepted.task_id)).sampler_profile_version == (
        DEFAULT_STRICT
    )
    plain = await world.submit(temperature=0.5)
    await world.frames(plain)
    assert sampling(sent(world)) == dict.fromkeys(profile) | {"temperature": 0.5}
    assert sent(world).cache_prompt is True
    assert task_view(await world.history.get(plain.task_id)).sampler_profile_version is None


async def test_a_strict_task_leaves_its_session_s_warm_slot_alone(world: World) -> None:
    """LO-ORC-171."""
    world.serve(able())
    await world.frames(await world.submit(session_id=SESSION))
    await anyio.wait_all_tasks_blocked()
    await world.frames(await world.submit(**STRICT, session_id=SESSION))
    await anyio.wait_all_tasks_blocked()
    assert world.leases.preferred == [0, 1]


async def test_two_equal_strict_tasks_are_streamed_byte_for_byte_alike(path: Path) -> None:
    """LO-ORC-173: but for ids of tasks and replicas, times and metrics."""
    async with world_at(path, slots=0) as world:
        world.serve(able(0), able(1))
        world.play([Token("a"), Token(" b\n"), Finished("stop", 3, 2, 0)])
        world.play([Token("a"), Token(" b\n"), Finished("stop", 3, 2, 0)])
        streams = [await world.frames(await world.submit(**STRICT)) for _ in range(2)]
        tokens = [[f.data for f in frames if f.name == "token"] for frames in streams]
        assert tokens[0] == tokens[1] == [{"t": "a", "i": 0}, {"t": " b\n", "i": 1}]
        volatile = {"predicted_start_ms", "queue_ms", "first_token_ms", "decode_ms", "replica_id"}
        kept = [
            [
                (f.name, {k: v for k, v in f.data.items() if k not in volatile})
                for f in frames
                if f.name != "metrics"
            ]
            for frames in streams
        ]
        assert kept[0] == kept[1]


async def test_a_pool_that_proves_nothing_refuses_strict_and_nothing_is_written(
    world: World,
) -> None:
    """LO-ORC-170."""
    world.serve(able(capabilities=BARRED))
    with pytest.raises(Refusal) as refused:
        await world.submit(**STRICT)
    assert refused.value.code is ErrorCode.INVALID_PARAMS
    assert refused.value.details == {
        "field": "determinism",
        "reason": "replica chat/0: 2 slots share a batch; set slots: 1",
    }
    assert (await world.history.page(None, None, None, 10)).tasks == []


async def test_a_replica_that_changed_while_the_task_waited_is_not_asked(path: Path) -> None:
    """LO-ORC-172."""
    async with world_at(path, slots=0) as world:
        world.serve(able(slots_total=1))
        world.play([Fault.SILENT])
        first = await world.submit()
        await world.until(first, "started")
        waits = await world.submit(**STRICT)
        world.serve(able(slots_total=1, capabilities=BARRED))
        await world.dispatcher.cancel(first.task_id)
        frames = await world.frames(waits)
        assert error_of(frames) is ErrorCode.INVALID_PARAMS
        assert "2 slots share a batch" in frames[-1].data["message"]
        assert [len(client.requests) for client in world.engines.clients] == [1]
        await anyio.wait_all_tasks_blocked()
        assert world.leases.held == {}


async def test_it_runs_on_another_replica_where_only_its_own_changed(path: Path) -> None:
    """LO-ORC-172."""
    async with world_at(path, slots=0) as world:
        world.serve(able(slots_total=1))
        world.play([Fault.SILENT])
        first = await world.submit()
        await world.until(first, "started")
        waits = await world.submit(**STRICT)
        world.serve(able(slots_total=2, capabilities=BARRED))
        await anyio.wait_all_tasks_blocked()
        frames = await world.frames(waits)
        assert error_of(frames) is ErrorCode.INVALID_PARAMS, "there was no other"
    async with world_at(path.with_name("other.sqlite"), slots=0) as world:
        world.serve(able(0, slots_total=0), able(1, slots_total=0))
        waits = await world.submit(**STRICT)
        world.serve(able(0, capabilities=BARRED), able(1))
        await anyio.wait_all_tasks_blocked()
        await world.pass_time(1)
        frames = await world.frames(waits)
        started = [frame.data for frame in frames if frame.name == "started"]
        assert [(s["replica_id"], s["attempt"]) for s in started] == [("chat/1", 2)]
        assert frames[-1].name == "end"


async def test_a_change_between_lease_and_stream_is_seen(path: Path) -> None:
    """LO-ORC-172: right before the engine is asked."""
    async with world_at(path, slots=0) as world:
        world.serve(able(0), able(1, model_digest=OTHER, state="starting"))
        asked = asyncio.Event()
        acquire = world.leases.acquire

        async def slow(*arguments: Any) -> Any:
            lease = await acquire(*arguments)
            world.serve(able(0), able(1, model_digest=OTHER))
            asked.set()
            return lease

        world.leases.acquire = slow  # type: ignore[method-assign,assignment]
        frames = await world.frames(await world.submit(**STRICT))
        assert asked.is_set()
        assert error_of(frames) is ErrorCode.INVALID_PARAMS
        assert "unlike models" in frames[-1].data["message"]
        assert [client.requests for client in world.engines.clients] == [[]]


async def test_a_task_keeps_the_profile_it_was_accepted_with(path: Path) -> None:
    """LO-ORC-178: also where the file is gone by then."""
    own = path.parent / OWN / "calm-1.yaml"
    own.parent.mkdir()
    own.write_text(CALM)
    async with world_at(path, slots=0) as world:
        accepted = await world.submit(sampler_profile_version="calm-1", top_k=5)
    own.unlink()
    async with world_at(path, slots=0, recover=True) as world:
        world.serve(able())
        await world.frames(accepted.task_id)
        assert sampling(sent(world)) == {
            "temperature": 0.3,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
            "repetition_penalty": 1.2,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
        }
        assert (await world.row(accepted))["sampler_profile_version"] == "calm-1"
        with pytest.raises(Refusal) as refused:
            await world.submit(sampler_profile_version="calm-1")
        assert refused.value.details is not None
        assert refused.value.details["known"] == ["balanced-1", "creative-1", "greedy-1"]


async def test_structured_output_is_passed_on_as_it_came(world: World) -> None:
    """LO-ORC-166."""
    schema = {"type": "object", "properties": {"a": {"maxLength": 3}}, "required": ["a"]}
    world.serve(able())
    await world.frames(await world.submit(json_schema=schema))
    assert (sent(world).json_schema, sent(world).grammar) == (schema, None)
    await world.frames(await world.submit(grammar="root ::= [a-z]+"))
    assert (sent(world).json_schema, sent(world).grammar) == (None, "root ::= [a-z]+")


async def test_a_schema_the_engine_refuses_ends_the_task(world: World) -> None:
    """LO-ORC-166: where no replica had told what it can do."""
    world.play([Fault.INVALID])
    frames = await world.frames(await world.submit(json_schema={"type": "odd"}))
    assert error_of(frames) is ErrorCode.INVALID_PARAMS
    assert frames[-1].data["retriable"] is False


async def test_the_slot_that_really_served_is_the_warm_one(path: Path) -> None:
    """LO-ORC-174: the engine's word is taken, and said once."""
    async with world_at(path, slots=0) as world:
        world.serve(replica(0, slots=4))
        other = new_uuid()
        world.play([Token("a"), Finished("stop", 10, 1, 9, 3)])
        await world.frames(await world.submit(session_id=other))
        world.play([Token("b"), Finished("stop", 10, 1, 5, 3)])
        await world.frames(await world.submit(session_id=SESSION))
        await anyio.wait_all_tasks_blocked()
        session = world.scheduler.sessions.find(SESSION, world.clock.now())
        loser = world.scheduler.sessions.find(other, world.clock.now())
        assert session is not None
        assert loser is not None
        assert session.place is not None
        assert (session.place.slot, session.kv_warmth) == (3, 0.5)
        assert (loser.place, loser.kv_warmth) == (None, 0.0)
        rows = await world.database.read(
            lambda c: c.execute("SELECT session_id, slot FROM sessions").fetchall()
        )
        assert {row["session_id"]: row["slot"] for row in rows} == {SESSION: 3, other: None}
        world.play(GREETING)
        await world.frames(await world.submit(session_id=SESSION))
        assert world.leases.preferred == [0, 0, 3]


async def test_evictions_since_its_last_turn_leave_no_session_warm(path: Path) -> None:
    """LO-ORC-175."""
    async with world_at(path, slots=0) as world:
        here = replica(0, slots=2, pid=7).model_copy(update={"kv_evictions": 3})
        world.serve(here)
        world.play([Token("a"), Finished("stop", 10, 1, 9)])
        await world.frames(await world.submit(session_id=SESSION))
        await anyio.wait_all_tasks_blocked()
        world.serve(here)
        assert world.sessions.get(SESSION).kv_warmth == 0.9
        world.serve(here.model_copy(update={"kv_evictions": 4}))
        view = world.sessions.get(SESSION)
        assert (view.kv_warmth, view.replica_id) == (0.0, None)
        world.play([Token("a"), Finished("stop", 10, 1, 8)])
        await world.frames(await world.submit(session_id=SESSION))
        await anyio.wait_all_tasks_blocked()
        assert world.sessions.get(SESSION).kv_warmth == 0.8
    async with world_at(path, slots=0, recover=True) as world:
        assert world.sessions.get(SESSION).kv_warmth == 0.8
        world.serve(here.model_copy(update={"kv_evictions": None}))
        assert world.sessions.get(SESSION).kv_warmth == 0.8
        world.serve(here.model_copy(update={"kv_evictions": 5}))
        assert world.sessions.get(SESSION).kv_warmth == 0.0, "nobody saw how many there were"
