"""Event streams as a client meets them."""

from __future__ import annotations

import asyncio
import socket

import anyio
import pytest

from contracts.tests.conftest import Answer, parse
from orchestratord.tests.builders import TASK_ID
from orchestratord.tests.http.conftest import Opening
from orchestratord.tests.http.reading import done, stream_of
from orchestratord.tests.runtime.frames import parse as frames_in
from orchestratord.tests.runtime.world import END
from worker_adapters.base import Token

pytestmark = pytest.mark.anyio


async def test_a_stream_is_resumed_after_what_was_seen(site: Opening) -> None:
    """LO-ORC-063."""
    async with site() as it:
        await it.post(task_id=TASK_ID)
        await done(it)
        whole = (await stream_of(it)).body
        for seen in range(5):
            answer = await stream_of(it, str(seen))
            assert frames_in(answer.body) == frames_in(whole)[seen:]
        assert answer.headers["x-task-id"] == TASK_ID


@pytest.mark.parametrize("seen", ["5", "-1", "1.0", "x", "", "+1", "1 2", "9" * 40, "\xb9"])
async def test_an_id_no_event_has_is_refused(site: Opening, seen: str) -> None:
    """LO-ORC-064."""
    async with site() as it:
        await it.post(task_id=TASK_ID)
        await done(it)
        answer = await stream_of(it, seen)
        assert (answer.status, answer.json["code"]) == (400, "INVALID_PARAMS")


async def test_a_stream_that_is_unknown_is_404_and_one_that_is_gone_410(site: Opening) -> None:
    """LO-ORC-065."""
    async with site() as it:
        assert (await stream_of(it)).status == 404
        assert (await stream_of(it, task_id="no-uuid")).status == 404
        await it.post(task_id=TASK_ID)
        await done(it)
        it.behind.shelf.evict(1e12, ())
        answer = await stream_of(it)
        assert (answer.status, answer.json["code"]) == (410, "GONE")
        assert (await it.ask("GET", f"/v1/tasks/{TASK_ID}")).json["text"] == "hello"


async def test_events_that_were_dropped_are_gone_and_the_rest_can_be_resumed(site: Opening) -> None:
    """LO-ORC-065, LO-ORC-073."""
    async with site() as it:
        await it.post(task_id=TASK_ID)
        await done(it)
        it.behind.log(TASK_ID)._drop_oldest()
        assert (await stream_of(it, "0")).status == 410
        assert [frame.id for frame in frames_in((await stream_of(it, "1")).body)] == [2, 3, 4]


async def test_a_client_that_leaves_cancels_nothing_and_holds_no_stream(site: Opening) -> None:
    """LO-ORC-068."""
    async with site() as it:
        gate = asyncio.Event()
        it.behind.play([Token("a"), gate, END])
        await it.post(task_id=TASK_ID)
        head = (
            f"GET /v1/tasks/{TASK_ID}/stream HTTP/1.1\r\nHost: localhost\r\n"
            "x-api-key: t0ken-of-the-tests\r\n\r\n"
        )
        async with await it.connect() as stream:
            await stream.send(head.encode())
            assert parse(await stream.receive()).status == 200
            assert it.drain.streams_open == 1
        with anyio.fail_after(10):
            await it.drain.wait_idle()
        gate.set()
        await done(it)
        assert (await it.behind.row(TASK_ID))["state"] == "succeeded"


async def test_a_silent_stream_is_kept_alive_by_comments(site: Opening) -> None:
    """LO-ORC-066."""
    async with site(slots=0, streams={"keepalive_ms": 10}) as it:
        await it.post(task_id=TASK_ID)
        data = b""
        head = (
            f"GET /v1/tasks/{TASK_ID}/stream HTTP/1.1\r\nHost: localhost\r\n"
            "x-api-key: t0ken-of-the-tests\r\n\r\n"
        )
        async with await it.connect() as stream:
            await stream.send(head.encode())
            with anyio.fail_after(10):
                while data.count(b": keep-alive\n\n") < 3:
                    data += await stream.receive()
            await it.behind.dispatcher.cancel(TASK_ID)
            with anyio.fail_after(10):
                while b"CANCELED" not in data:
                    data += await stream.receive()


async def test_a_stream_beyond_the_bound_is_refused(site: Opening) -> None:
    """LO-HTTP-029, LO-SYS-050."""
    async with site(slots=0, limits={"streams": 1}) as it:
        await it.post(task_id=TASK_ID)
        with it.drain.stream():
            answer = await stream_of(it)
        assert (answer.status, answer.json["code"]) == (429, "ADMISSION_REJECT")
        assert answer.json["policy_label"] == "streams"


async def test_a_reader_that_takes_nothing_is_cut_off_and_hurts_nobody(site: Opening) -> None:
    """LO-ORC-067."""
    limits = {"send_timeout_ms": 200, "stream_buffer_bytes": 65_536}
    async with site(limits=limits) as it:
        gate = asyncio.Event()
        it.behind.play([gate, *[Token("x" * 20_000)] * 100, END])
        await it.post(task_id=TASK_ID, max_tokens=200)
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            stalled.connect(("127.0.0.1", it.port))
            stalled.sendall(
                f"GET /v1/tasks/{TASK_ID}/stream HTTP/1.1\r\nHost: localhost\r\n"
                "x-api-key: t0ken-of-the-tests\r\n\r\n".encode()
            )
            await it.behind.until(TASK_ID, "started")
            async with anyio.create_task_group() as group:
                other: list[Answer] = []

                async def read() -> None:
                    other.append(await stream_of(it))

                group.start_soon(read)
                with anyio.fail_after(10):
                    while it.drain.streams_open < 2:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                gate.set()
            with anyio.fail_after(10):
                await it.drain.wait_idle()
        assert len(frames_in(other[0].body)) == 102
        assert (await it.behind.row(TASK_ID))["state"] == "succeeded"
