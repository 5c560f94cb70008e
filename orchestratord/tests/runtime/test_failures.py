"""Leases, engines and disks that fail, and what becomes of the task."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from contracts.config import Streams
from contracts.errors import ErrorCode
from contracts.service.failpoints import Failpoints
from orchestratord.errors import StorageBusy
from orchestratord.runtime.recovery import INTERRUPTIONS_MAX
from orchestratord.stores.sessions import Settlement
from orchestratord.stores.tasks import Outcome
from orchestratord.tests.builders import TASK_ID, replica
from orchestratord.tests.runtime.frames import text_of
from orchestratord.tests.runtime.world import END, PoolFault, World, error_of, world_at
from worker_adapters.base import Progress, Token
from worker_adapters.errors import EngineLost
from worker_adapters.scripted import Fault, Step

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fault", list(PoolFault))
async def test_a_lease_that_is_not_granted_puts_the_task_back_in_line(
    world: World, fault: PoolFault
) -> None:
    world.leases.faults.append(fault)
    accepted = await world.submit()
    await anyio.wait_all_tasks_blocked()
    assert world.position(accepted.task_id) == 0
    assert (await world.row(accepted))["state"] == "queued"
    await world.pass_time(1)
    frames = await world.frames(accepted)
    assert [frame.name for frame in frames] == ["started", "token", "token", "end"]
    assert frames[0].data["attempt"] == 2
    assert world.leases.epochs == [("chat/0", 1), ("chat/0", 2)]


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.UNREACHABLE, Fault.BUSY])
async def test_an_engine_lost_before_a_token_means_another_attempt_elsewhere(
    world: World, fault: Fault
) -> None:
    """LO-ORC-042, LO-ORC-070."""
    world.serve(replica(0), replica(1))
    world.play([fault])
    accepted = await world.submit()
    frames = await world.frames(accepted)
    assert [frame.name for frame in frames] == ["started", "started", "token", "token", "end"]
    assert [frame.id for frame in frames] == [1, 2, 3, 4, 5]
    assert [f.data["attempt"] for f in frames[:2]] == [1, 2]
    assert [f.data["replica_id"] for f in frames[:2]] == ["chat/0", "chat/1"]
    assert world.engines.clients[0].reached[fault] == 1
    row = await world.row(accepted)
    assert (row["attempt"], row["readable"], row["replica_id"]) == (2, 2, "chat/1")


async def test_an_engine_lost_after_a_token_ends_the_task_worker_reset(world: World) -> None:
    """LO-ORC-043: with the text that was sent."""
    world.play([Token("par"), Token("t"), Fault.LOST])
    frames = await world.frames(accepted := await world.submit())
    assert error_of(frames) is ErrorCode.WORKER_RESET
    assert frames[-1].data["retriable"] is True
    assert text_of(frames) == (await world.row(accepted))["text"] == "part"
    assert len(world.engines.clients) == 1


async def test_a_task_that_brought_down_three_replicas_is_poison(world: World) -> None:
    """LO-ORC-044."""
    world.serve(*(replica(n) for n in range(4)))
    world.play([Fault.LOST], [Fault.LOST], [Fault.LOST])
    frames = await world.frames(await world.submit())
    assert [frame.name for frame in frames] == ["started"] * 3 + ["error"]
    assert error_of(frames) is ErrorCode.POISON
    assert "given up after 3" in frames[-1].data["message"]
    assert frames[-1].data["retriable"] is False


async def test_replicas_lost_are_counted_over_a_restart(path: Path) -> None:
    """LO-ORC-044."""
    async with world_at(path, slots=0) as world:
        world.play([Fault.LOST], [Fault.LOST])
        accepted = await world.submit(TASK_ID)
        world.serve(replica(0), replica(1))
        await anyio.wait_all_tasks_blocked()
        assert (await world.row(accepted))["resets"] == 2
    async with world_at(path, slots=0, recover=True) as world:
        world.play([Fault.LOST])
        world.serve(replica(0))
        assert error_of(await world.frames(TASK_ID)) is ErrorCode.POISON


async def test_a_task_that_is_running_whenever_the_daemon_dies_is_given_up(path: Path) -> None:
    """LO-ORC-044."""
    for life in range(INTERRUPTIONS_MAX + 1):
        async with world_at(path, recover=True) as world:
            world.play([Fault.SILENT])
            if life == 0:
                await world.submit(TASK_ID)
            else:
                world.dispatcher.pump()
            await anyio.wait_all_tasks_blocked()
            assert (await world.row(TASK_ID))["interruptions"] == life
    async with world_at(path, recover=True) as world:
        assert error_of(await world.frames(TASK_ID)) is ErrorCode.POISON
        assert world.engines.clients == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.CONTEXT_EXCEEDED, ErrorCode.CONTEXT_EXCEEDED),
        (Fault.INVALID, ErrorCode.INVALID_PARAMS),
        (Fault.FOREIGN, ErrorCode.UPSTREAM_PROTOCOL),
        (Fault.UNFINISHED, ErrorCode.UPSTREAM_PROTOCOL),
    ],
)
@pytest.mark.parametrize("tokens", [0, 2])
async def test_what_an_engine_will_never_do_ends_the_task(
    world: World, fault: Fault, code: ErrorCode, tokens: int
) -> None:
    """LO-ORC-016."""
    world.play([*[Token("a")] * tokens, fault])
    assert error_of(await world.frames(await world.submit())) is code
    assert len(world.engines.clients) == 1


async def test_an_engine_that_goes_on_past_max_tokens_is_stopped_there(world: World) -> None:
    """LO-ORC-140: the answer is whole as far as it was asked for."""
    world.play([Progress(7, 2, 7), *[Token("a")] * 50])
    frames = await world.frames(await world.submit(max_tokens=4))
    assert text_of(frames) == "aaaa"
    end = frames[-1].data
    assert (end["finish_reason"], end["tokens_in"], end["tokens_out"]) == ("length", 7, 4)
    assert world.engines.clients[0].abandoned == 1


async def test_an_engine_that_sends_more_text_than_a_log_may_hold_is_cut(path: Path) -> None:
    """LO-ORC-073: the answer keeps what came before, within the bound."""
    async with world_at(path, streams=Streams(log_bytes=65_536)) as world:
        world.play([Token("x" * 40_000)] * 3)
        frames = await world.frames(accepted := await world.submit())
        assert error_of(frames) is ErrorCode.UPSTREAM_PROTOCOL
        assert "streams.log_bytes" in frames[-1].data["message"]
        assert text_of(frames) == (await world.row(accepted))["text"] == "x" * 40_000
        assert world.engines.clients[0].abandoned == 1


async def test_a_defect_in_one_attempt_ends_that_task_and_no_other(world: World) -> None:
    """LO-ORC-100."""
    world.engines.defect = RuntimeError("a detail that no client reads")
    frames = await world.frames(await world.submit())
    assert error_of(frames) is ErrorCode.INTERNAL
    assert "detail" not in frames[-1].data["message"]
    assert (await world.frames(await world.submit()))[-1].name == "end"


async def test_a_defect_while_an_end_is_written_ends_that_task_and_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-ORC-100."""
    finish = world.store.finish

    async def broken(_task_id: str, _outcome: Outcome, _settlement: Settlement) -> None:
        monkeypatch.setattr(world.store, "finish", finish)
        raise ValueError("a detail that no client reads")

    monkeypatch.setattr(world.store, "finish", broken)
    frames = await world.frames(accepted := await world.submit())
    assert error_of(frames) is ErrorCode.INTERNAL
    assert "detail" not in frames[-1].data["message"]
    row = await world.row(accepted)
    assert (row["state"], row["text"]) == ("failed", "hello")
    assert (await world.frames(await world.submit()))[-1].name == "end"
    await anyio.wait_all_tasks_blocked()
    assert world.leases.held == {}


@pytest.mark.parametrize("point", ["task.start", "task.finish", "task.finished", "lease.release"])
async def test_a_defect_at_any_point_leaves_one_end_and_the_daemon(path: Path, point: str) -> None:
    """LO-ORC-090, LO-ORC-100: what is on disk already holds, whatever failed after it."""
    failpoints = Failpoints.parsed("orchestratord", f"{point}=1*error(EIO)")
    async with world_at(path, failpoints=failpoints) as world:
        frames = await world.frames(accepted := await world.submit())
        await anyio.wait_all_tasks_blocked()
        assert failpoints.reached[point, "error(EIO)"] == 1
        written = point in ("task.finished", "lease.release")
        assert frames[-1].name == ("end" if written else "error")
        row = await world.row(accepted)
        assert row["state"] == ("succeeded" if written else "failed")
        assert (await world.frames(await world.submit()))[-1].name == "end"
        await anyio.wait_all_tasks_blocked()
        assert world.leases.held == {}
        assert world.scheduler.running("chat") == 0


async def test_text_that_is_no_text_ends_that_task_and_no_other(world: World) -> None:
    """LO-ORC-100."""
    world.play([Token("good"), Token("\ud800")])
    accepted = await world.submit()
    frames = await world.frames(accepted)
    assert error_of(frames) is ErrorCode.INTERNAL
    assert (await world.row(accepted))["text"] == text_of(frames) == "good"
    assert (await world.frames(await world.submit()))[-1].name == "end"


async def test_a_long_reason_is_cut_to_what_an_event_may_hold(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "worker_adapters.scripted.fault_error", lambda _: _lost_with_a_long_message()
    )
    world.play([Token("a"), Fault.LOST])
    frames = await world.frames(await world.submit())
    assert error_of(frames) is ErrorCode.WORKER_RESET
    assert len(frames[-1].data["message"]) == 2_048


def _lost_with_a_long_message() -> Exception:
    return EngineLost("x" * 5_000)


async def test_an_end_that_cannot_be_written_waits_for_the_lock_to_go(world: World) -> None:
    gate = asyncio.Event()
    world.play([Token("a"), gate, END])
    accepted = await world.submit()
    await world.until(accepted, "token")
    with world.locked():
        gate.set()
        for _ in range(3):
            with pytest.raises(StorageBusy):
                await world.submit()
        assert not world.log(accepted).sealed
    assert (await world.frames(accepted))[-1].name == "end"
    assert (await world.row(accepted))["state"] == "succeeded"


async def test_many_tasks_with_cancels_and_lost_engines_each_end_once(path: Path) -> None:
    """LO-ORC-090."""
    async with world_at(path, slots=3) as world:
        world.serve(replica(0, slots=2), replica(1, slots=2), replica(2, slots=2))
        scripts: list[list[Step]] = [
            [Token("a"), END],
            [Fault.LOST],
            [Token("b"), Fault.LOST],
            [Fault.BUSY],
        ]
        world.play(*(scripts[n % 4] for n in range(80)))
        tasks = [await world.submit(priority=("batch", "interactive")[n % 2]) for n in range(60)]
        async with anyio.create_task_group() as group:
            for task in tasks[::7]:
                group.start_soon(world.dispatcher.cancel, task.task_id)
            with anyio.fail_after(20):
                while world.dispatcher.waiting or world.dispatcher.attempts:
                    await world.pass_time(0.3)
                    # A spinning loop would keep the interpreter from SQLite's threads.
                    await anyio.sleep(0.001)
        for task in tasks:
            frames = await world.frames(task)
            assert [f.name in ("end", "error") for f in frames].count(True) == 1
            assert [frame.id for frame in frames] == list(range(1, len(frames) + 1))
            assert (await world.row(task))["last_event_id"] == len(frames)
        assert world.leases.held == {}
        assert [world.scheduler.active(f"chat/{n}") for n in range(3)] == [0, 0, 0]
