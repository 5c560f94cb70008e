"""Calls to a pool_managerd that answers, lies, breaks off or is away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from contracts.errors import ErrorCode, ErrorEnvelope, Refusal
from contracts.pools import DrainRequest, Endpoint, Lease, ReloadRequest, Snapshot
from contracts.service.run_files import RunFile
from contracts.service.settings import Secret
from orchestratord.clients import pools
from orchestratord.clients.pools import LeaseRefused, PoolManagerAway, PoolsClient, new_session
from orchestratord.tests.builders import TASK_ID, pool_change
from orchestratord.tests.clients.stand_in import (
    Answer,
    StandIn,
    cut,
    event,
    in_pieces,
    plain,
    redirect,
    stand_in,
    watch,
)

pytestmark = pytest.mark.anyio

LEASE = Lease(lease_id=TASK_ID, base_url="http://127.0.0.1:9", api_key="k", slot=1)
GRANT = LEASE.model_dump_json().encode()


@pytest.fixture(autouse=True)
def _reconnects_do_not_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "RECONNECT_BASE_S", 0.001)
    monkeypatch.setattr(pools, "RECONNECT_CAP_S", 0.001)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[PoolsClient]:
    async with new_session() as session:
        yield PoolsClient(tmp_path, Secret("t0ken-of-the-tests"), session)


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[StandIn]:
    async with stand_in(tmp_path) as manager:
        yield manager


async def acquire(client: PoolsClient) -> Lease:
    return await client.acquire("chat/0", TASK_ID, 2, "c-1")


async def test_a_lease_is_asked_for_with_everything_it_is_fenced_by(
    client: PoolsClient, manager: StandIn
) -> None:
    """LO-ORC-040."""
    manager.answers.append(plain(201, GRANT))
    assert await acquire(client) == LEASE
    (seen,) = manager.seen
    assert (seen.method, seen.path) == ("POST", "/v1/leases")
    assert json.loads(seen.body) == {
        "replica_id": "chat/0",
        "task_id": TASK_ID,
        "epoch": 2,
        "ttl_ms": 30_000,
        "holder": client.holder,
    }
    assert seen.headers["authorization"] == "Bearer t0ken-of-the-tests"
    assert seen.headers["x-correlation-id"] == "c-1"
    assert seen.headers["content-type"] == "application/json"


async def test_a_slot_can_be_preferred_and_a_renewal_names_the_one_it_has(
    client: PoolsClient, manager: StandIn
) -> None:
    """LO-ORC-127, LO-POOL-070."""
    manager.answers += [plain(201, GRANT), plain(200, GRANT)]
    await client.acquire("chat/0", TASK_ID, 2, "c-1", preferred_slot=3)
    await client.renew(LEASE, "chat/0", TASK_ID, 2)
    assert [json.loads(seen.body)["preferred_slot"] for seen in manager.seen] == [3, LEASE.slot]


async def test_an_endpoint_is_asked_for_without_a_lease(
    client: PoolsClient, manager: StandIn
) -> None:
    """LO-POOL-063."""
    found = Endpoint(base_url="http://127.0.0.1:9", api_key="k")
    manager.answers += [plain(200, found.model_dump_json().encode()), plain(409)]
    assert await client.endpoint("chat/0") == found
    assert (manager.seen[0].method, manager.seen[0].path) == (
        "GET",
        "/v1/replicas/chat/0/endpoint",
    )
    with pytest.raises(LeaseRefused):
        await client.endpoint("chat/0")


async def test_a_lease_is_renewed_and_released_by_its_id(
    client: PoolsClient, manager: StandIn
) -> None:
    manager.answers.extend([plain(200), plain(204)])
    await client.renew(LEASE, "chat/0", TASK_ID, 2)
    await client.release(LEASE, "c-1")
    assert [(s.method, s.path) for s in manager.seen] == [
        ("PUT", f"/v1/leases/{TASK_ID}"),
        ("DELETE", f"/v1/leases/{TASK_ID}"),
    ]
    assert json.loads(manager.seen[0].body)["epoch"] == 2


@pytest.mark.parametrize("status", [409, 404, 503])
async def test_a_lease_that_is_not_granted_is_refused(
    client: PoolsClient, manager: StandIn, status: int
) -> None:
    manager.answers.extend([plain(status, b"{}"), plain(status, b"{}")])
    with pytest.raises(LeaseRefused, match=f"chat/0: lease answered {status}"):
        await acquire(client)
    with pytest.raises(LeaseRefused, match=f"chat/0: renewal answered {status}"):
        await client.renew(LEASE, "chat/0", TASK_ID, 2)


@pytest.mark.parametrize(
    "answer",
    [
        plain(201, b"<html>"),
        plain(201, b""),
        plain(201, b"{}"),
        plain(201, GRANT[:-1]),
        plain(201, GRANT.replace(b'"slot":1', b'"slot":-1')),
        plain(201, b'{"x":"' + b"a" * 1_000_000 + b'"}'),
        cut,
    ],
    ids=["html", "empty", "no field", "half", "a slot below 0", "endless", "cut"],
)
async def test_an_answer_that_makes_no_sense_reads_as_away(
    client: PoolsClient, manager: StandIn, answer: Answer
) -> None:
    manager.answers.append(answer)
    with pytest.raises(PoolManagerAway):
        await acquire(client)


async def test_a_lease_that_comes_in_pieces_is_read_whole(
    client: PoolsClient, manager: StandIn
) -> None:
    manager.answers.append(in_pieces(201, GRANT[:20], GRANT[20:40], GRANT[40:]))
    assert await acquire(client) == LEASE


async def test_an_answer_that_does_not_come_in_time_reads_as_away(
    client: PoolsClient, manager: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "CALL_DEADLINE_S", 0.05)
    manager.answers.append(watch())
    with pytest.raises(PoolManagerAway, match="POST /v1/leases"):
        await acquire(client)


async def test_without_a_run_file_the_manager_is_away(client: PoolsClient, tmp_path: Path) -> None:
    with pytest.raises(PoolManagerAway, match="is it started"):
        await acquire(client)


@pytest.mark.parametrize("url", ["", "not a url", "http://127.0.0.1:1", "ftp://127.0.0.1"])
async def test_a_run_file_that_leads_nowhere_reads_as_away(
    client: PoolsClient, tmp_path: Path, url: str
) -> None:
    RunFile.write(tmp_path, "pool_managerd", url)
    with pytest.raises(PoolManagerAway):
        await acquire(client)
    async with aclosing(client.snapshots()) as snapshots:
        assert await anext(snapshots) is None


async def test_a_manager_that_came_back_elsewhere_is_found_by_its_run_file(
    client: PoolsClient, tmp_path: Path
) -> None:
    async with stand_in(tmp_path) as first:
        first.answers.append(plain(201, GRANT))
        await acquire(client)
    async with stand_in(tmp_path) as second:
        assert second.url != first.url
        second.answers.append(plain(201, GRANT))
        with pytest.raises(PoolManagerAway):
            await acquire(client)
        assert await acquire(client) == LEASE


async def test_the_token_is_not_carried_where_an_answer_points(
    client: PoolsClient, manager: StandIn, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with stand_in(tmp_path_factory.mktemp("elsewhere")) as elsewhere:
        manager.answers.extend([redirect(elsewhere.url), redirect(elsewhere.url)])
        with pytest.raises(LeaseRefused, match="307"):
            await acquire(client)
        async with aclosing(client.snapshots()) as snapshots:
            assert await anext(snapshots) is None
        assert elsewhere.seen == []


async def following(client: PoolsClient, count: int) -> list[int | None]:
    """The versions of the next `count` snapshots; None where the manager was away."""
    got: list[Snapshot | None] = []
    with anyio.fail_after(10):
        async with aclosing(client.snapshots()) as snapshots:
            while len(got) < count:
                got.append(await anext(snapshots))
    return [None if found is None else found.version for found in got]


async def test_every_snapshot_is_told_however_the_bytes_are_cut(
    client: PoolsClient, manager: StandIn
) -> None:
    stream = event(1) + b": still here\n\n" + event(2) + event(3)
    manager.answers.append(watch(*(stream[n : n + 7] for n in range(0, len(stream), 7))))
    assert await following(client, 3) == [1, 2, 3]
    assert manager.seen[0].headers["authorization"] == "Bearer t0ken-of-the-tests"


@pytest.mark.parametrize("end", ["cut", "end"])
async def test_a_watch_that_ends_is_told_and_taken_up_again(
    client: PoolsClient, manager: StandIn, end: str
) -> None:
    manager.answers.extend([watch(event(7), then=end), watch(event(1))])
    assert await following(client, 3) == [7, None, 1]


@pytest.mark.parametrize(
    "answer",
    [
        plain(503, b"{}"),
        plain(401, b"{}"),
        watch(b"data: <html>\n\n"),
        watch(b"data: {}\n\n"),
        watch(event(1).replace(b'"version":1', b'"version":-1')),
    ],
    ids=["503", "401", "html", "no field", "a version below 0"],
)
async def test_a_watch_that_makes_no_sense_is_told_and_tried_again(
    client: PoolsClient, manager: StandIn, answer: Answer
) -> None:
    manager.answers.extend([answer, watch(event(5))])
    assert await following(client, 2) == [None, 5]


async def test_a_watch_without_end_of_event_is_bounded(
    client: PoolsClient, manager: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "SNAPSHOT_BYTES_MAX", 100_000)
    manager.answers.extend([watch(b"data: " + b"x" * 200_000), watch(event(5))])
    assert await following(client, 2) == [None, 5]


async def test_a_watch_that_falls_silent_is_given_up(
    client: PoolsClient, manager: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "WATCH_SILENCE_S", 0.05)
    manager.answers.extend([watch(event(1)), watch(event(2))])
    assert await following(client, 3) == [1, None, 2]


async def test_a_watch_finds_a_manager_that_came_back_elsewhere(
    client: PoolsClient, tmp_path: Path
) -> None:
    async with aclosing(client.snapshots()) as snapshots:
        assert await anext(snapshots) is None
        async with stand_in(tmp_path) as first:
            first.answers.append(watch(event(8)))
            while (found := await anext(snapshots)) is None:
                pass
            assert found.version == 8
        async with stand_in(tmp_path) as second:
            second.answers.append(watch(event(1)))
            assert await anext(snapshots) is None
            while (found := await anext(snapshots)) is None:
                pass
            assert found.version == 1


def envelope(code: ErrorCode, **more: object) -> bytes:
    refusal = Refusal(code, "no", details=dict(more) or None)
    found: ErrorEnvelope = refusal.envelope("c-1")
    return found.model_dump_json().encode()


async def test_changes_of_a_pool_are_posted_and_read(client: PoolsClient, manager: StandIn) -> None:
    change = pool_change("drain", 3)
    manager.answers += [plain(202, change.model_dump_json().encode())] * 3
    assert await client.drain("chat", DrainRequest(deadline_ms=5), "c-1") == change
    await client.reload("chat", ReloadRequest(new_model_ref="file:/m"), "c-1")
    await client.resume("chat", "c-1")
    assert [(s.method, s.path, s.body) for s in manager.seen] == [
        ("POST", "/v1/pools/chat/drain", b'{"deadline_ms":5}'),
        ("POST", "/v1/pools/chat/reload", b'{"new_model_ref":"file:/m"}'),
        ("POST", "/v1/pools/chat/resume", b""),
    ]


async def test_a_refused_change_keeps_its_code_and_words(
    client: PoolsClient, manager: StandIn
) -> None:
    """LO-ORC-161."""
    manager.answers.append(plain(403, envelope(ErrorCode.POLICY_DENIED, host="x")))
    with pytest.raises(Refusal, match="no") as refused:
        await client.resume("chat", "c-1")
    assert (refused.value.code, refused.value.pool_id) == (ErrorCode.POLICY_DENIED, "chat")
    assert refused.value.details == {"host": "x"}


@pytest.mark.parametrize(
    "answer", [plain(401, envelope(ErrorCode.UNAUTHENTICATED)), plain(500, b"x"), cut]
)
async def test_what_is_wrong_between_the_daemons_reads_as_away(
    client: PoolsClient, manager: StandIn, answer: Answer
) -> None:
    """LO-ORC-161."""
    manager.answers.append(answer)
    with pytest.raises(PoolManagerAway):
        await client.resume("chat", "c-1")


@pytest.mark.parametrize(
    ("body", "not_ready"),
    [
        (envelope(ErrorCode.CONFLICT, reason="not_ready"), True),
        (envelope(ErrorCode.NOT_FOUND), True),
        (envelope(ErrorCode.CONFLICT, reason="stale_epoch"), False),
        (b"{}", False),
    ],
)
async def test_a_refused_renewal_says_whether_the_replica_is_not_ready(
    client: PoolsClient, manager: StandIn, body: bytes, not_ready: bool
) -> None:
    """LO-ORC-157, LO-ORC-158."""
    manager.answers.append(plain(409, body))
    with pytest.raises(LeaseRefused) as refused:
        await client.renew(LEASE, "chat/0", TASK_ID, 2, idle_ms=7)
    assert refused.value.not_ready is not_ready
    assert json.loads(manager.seen[0].body)["idle_ms"] == 7
