"""The HTTP manners, on a real port."""

from __future__ import annotations

import re
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from contracts.errors import ErrorEnvelope
from contracts.service.http1 import HEADER_BYTES_MAX, IDLE_SECONDS
from contracts.tests.conftest import ANSWER_SECONDS, TOKEN, Serving, parse, read_all

pytestmark = pytest.mark.anyio

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """uvloop, as the daemons run."""
    return "asyncio", {"use_uvloop": True}


def envelope(body: bytes) -> ErrorEnvelope:
    return ErrorEnvelope.model_validate_json(body)


async def test_a_public_route_needs_no_token(serving: Serving) -> None:
    async with serving() as served:
        answer = await served.ask("GET", "/healthz", token=None)
        assert (answer.status, answer.json) == (200, {"a": 1, "text": ""})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/items/x"),
        ("PATCH", "/v1/items/x"),
        ("POST", "/v1/echo"),
        ("GET", "/metrics"),
        ("GET", "/v1/events"),
        ("GET", "/unknown"),
        ("GET", "//v1/items/x"),
        ("GET", "/healthz/../v1/items/x"),
        ("GET", "/healthz%2f..%2fv1/items/x"),
        ("GET", "/healthz/"),
        ("GET", "/healthz;x"),
        ("GET", "/healthz%0a"),
        ("GET", "http://127.0.0.1/v1/items/x"),
        ("GET", "/v1%2fitems/x"),
        ("OPTIONS", "*"),
    ],
)
async def test_without_a_token_nothing_but_the_public_routes_answers(
    serving: Serving, method: str, path: str
) -> None:
    """LO-HTTP-001, LO-HTTP-002, LO-HTTP-003."""
    async with serving() as served:
        answer = await served.ask(method, path, token=None)
        assert answer.status == 401
        assert envelope(answer.body).code == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "lines",
    [
        "Authorization: Bearer wrong",
        f"Authorization: Basic {TOKEN}",
        f"Authorization: {TOKEN}",
        "Authorization: Bearer ",
        "Authorization:",
        f"Authorization: Bearer {TOKEN}x",
        f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}",
        f"Authorization: Bearer {TOKEN}\r\nx-api-key: {TOKEN}",
        "Authorization: Bearer \xe9\xe8",
        "x-api-key: \xe9",
        "x-api-key: " + "k" * 10_000,
    ],
    ids=str,
)
async def test_what_is_not_exactly_the_token_is_refused(serving: Serving, lines: str) -> None:
    """LO-HTTP-004."""
    async with serving() as served:
        head = (
            f"GET /v1/items/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n\r\n"
        )
        assert parse(await served.raw(head.encode("latin-1"))).status == 401


async def test_a_megabyte_of_token_is_refused_as_too_large(serving: Serving) -> None:
    """LO-HTTP-025."""
    async with serving() as served:
        answer = await served.ask("GET", "/v1/items/x", token="k" * 1_048_576)
        assert answer.status == 431
        assert envelope(answer.body).code == "HEADERS_TOO_LARGE"
        assert UUID.fullmatch(answer.headers["x-correlation-id"])


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_the_token_opens_in_either_header(serving: Serving, header: str) -> None:
    """LO-HTTP-004."""
    async with serving() as served:
        value = f"bearer {TOKEN}" if header == "authorization" else TOKEN
        answer = await served.ask("GET", "/v1/items/x", headers={header: value}, token=None)
        assert answer.json["text"] == "x"


async def test_metrics_open_only_when_told_to(serving: Serving) -> None:
    async with serving(observability={"metrics_public": True}) as served:
        assert (await served.ask("GET", "/metrics", token=None)).status == 200


async def test_an_unknown_path_is_404_and_a_wrong_method_405_with_a_token(serving: Serving) -> None:
    """LO-HTTP-040, LO-HTTP-044."""
    async with serving() as served:
        unknown = await served.ask("GET", "/v1/nothing")
        wrong = await served.ask("PATCH", "/v1/items/x")
        assert (unknown.status, envelope(unknown.body).code) == (404, "NOT_FOUND")
        assert (wrong.status, wrong.headers["allow"]) == (405, "DELETE, GET, HEAD")
        assert envelope(wrong.body).code == "METHOD_NOT_ALLOWED"


async def test_head_is_get_without_a_body_but_never_on_a_stream(serving: Serving) -> None:
    """LO-HTTP-047."""
    async with serving() as served:
        answer = await served.ask("HEAD", "/v1/items/x")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["content-length"]) > 0
        assert (await served.ask("HEAD", "/v1/events")).status == 405


async def test_a_well_formed_correlation_id_is_echoed(serving: Serving) -> None:
    """LO-HTTP-010, LO-HTTP-011."""
    async with serving() as served:
        answer = await served.ask("GET", "/v1/nothing", headers={"X-Correlation-Id": "a.B:c_d-1"})
        assert answer.headers["x-correlation-id"] == "a.B:c_d-1"
        assert answer.json["correlation_id"] == "a.B:c_d-1"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "\xe9", "a\tb", 'a"b'])
async def test_any_other_correlation_id_is_replaced(serving: Serving, given: str) -> None:
    """LO-HTTP-010."""
    async with serving() as served:
        answer = await served.ask("GET", "/healthz", headers={"X-Correlation-Id": given})
        assert UUID.fullmatch(answer.headers["x-correlation-id"])


async def test_an_unexpected_failure_is_an_envelope_without_its_detail(serving: Serving) -> None:
    """LO-HTTP-040, LO-HTTP-043."""
    async with serving() as served:
        answer = await served.ask("GET", "/v1/boom")
        assert (answer.status, envelope(answer.body).code) == (500, "INTERNAL")
        assert b"no client reads" not in answer.body
        assert b"RuntimeError" not in answer.body


async def test_a_stream_only_code_is_never_an_answer(serving: Serving) -> None:
    """LO-HTTP-040."""
    async with serving() as served:
        answer = await served.ask("GET", "/v1/misplaced")
        assert (answer.status, envelope(answer.body).code) == (500, "INTERNAL")


async def test_429_says_when_to_come_back_and_which_policy_refused(serving: Serving) -> None:
    """LO-HTTP-041, LO-HTTP-042."""
    async with serving() as served:
        answer = await served.ask("GET", "/v1/busy")
        assert answer.status == 429
        assert (answer.headers["x-backoff-ms"], answer.headers["retry-after"]) == ("1234", "2")
        assert answer.json["retry_after_ms"] == 1234
        assert answer.json["policy_label"] == "admission"


async def test_half_an_answer_ends_without_its_final_chunk(serving: Serving) -> None:
    async with serving() as served:
        answer = await served.ask("GET", "/v1/broken")
        assert answer.status == 200
        assert not answer.body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "a@b", "localhost:1:2"])
async def test_a_host_that_is_not_ours_is_refused(serving: Serving, host: str) -> None:
    """LO-HTTP-005."""
    async with serving() as served:
        answer = await served.ask("GET", "/healthz", headers={"Host": host})
        assert (answer.status, envelope(answer.body).code) == (403, "FORBIDDEN")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9", "[::1]:8700", "127.0.0.2", "gpu.lan", "GPU.lan:80"]
)
async def test_loopback_and_allowed_hosts_are_served(serving: Serving, host: str) -> None:
    """LO-HTTP-005."""
    async with serving(auth={"allowed_hosts": ["gpu.lan"]}) as served:
        assert (await served.ask("GET", "/healthz", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("file://localhost", 403),
        ("http://localhost@evil.example", 403),
        ("http://[", 403),
    ],
)
async def test_an_origin_must_be_ours(serving: Serving, origin: str, status: int) -> None:
    """LO-HTTP-005."""
    async with serving() as served:
        answer = await served.ask("GET", "/healthz", headers={"Origin": origin})
        assert answer.status == status


@pytest.mark.parametrize(
    "head",
    [
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
        "GET /healthz HTTP/1.1\r\n",
        "GET /healthz HTTP/1.0\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n",
        "POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -2\r\n",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n",
        "PRI * HTTP/2.0\r\n",
        "nonsense\r\n",
    ],
    ids=str,
)
async def test_ambiguous_or_broken_framing_is_400_in_an_envelope(
    serving: Serving, head: str
) -> None:
    """LO-HTTP-011, LO-HTTP-026, LO-HTTP-040."""
    async with serving() as served:
        data = await served.raw(f"{head}\r\n".encode() + b"0\r\n\r\n")
        answer = parse(data)
        assert (answer.status, envelope_first(answer.body).code) == (400, "INVALID_PARAMS")
        assert UUID.fullmatch(answer.headers["x-correlation-id"])


def envelope_first(body: bytes) -> ErrorEnvelope:
    return envelope(body[: body.index(b"}") + 1])


async def test_a_header_block_is_bounded(serving: Serving) -> None:
    """LO-HTTP-025, LO-SYS-050."""
    async with serving() as served:
        fits = await served.ask("GET", "/healthz", headers={"X-A": "a" * (HEADER_BYTES_MAX - 500)})
        over = await served.ask("GET", "/healthz", headers={"X-A": "a" * HEADER_BYTES_MAX})
        assert (fits.status, over.status) == (200, 431)


async def test_no_upgrade_is_honoured(serving: Serving) -> None:
    """LO-HTTP-027."""
    async with serving() as served:
        for protocol in ("h2c", "websocket"):
            sent = {
                "Upgrade": protocol,
                "Connection": "Upgrade, HTTP2-Settings, close",
                "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version": "13",
            }
            assert (await served.ask("GET", "/healthz", headers=sent)).status == 200


async def test_http2_with_prior_knowledge_is_refused(serving: Serving) -> None:
    """LO-HTTP-027."""
    async with serving() as served:
        data = await served.raw(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        )
        assert parse(data).status == 400


async def test_only_json_is_taken(serving: Serving) -> None:
    """LO-HTTP-022."""
    async with serving() as served:
        for kind, status in [
            ("text/plain", 415),
            ("application/json; charset=latin-1", 415),
            ("application/x-www-form-urlencoded", 415),
            ("Application/JSON; charset=UTF-8", 200),
        ]:
            answer = await served.ask("POST", "/v1/echo", b'{"a":1}', {"Content-Type": kind})
            assert answer.status == status, kind


async def test_the_body_is_bounded_exactly(serving: Serving) -> None:
    """LO-HTTP-020, LO-SYS-050."""
    async with serving(limits={"body_bytes": 1024}) as served:
        body = b'{"a":1}'
        for size, status in [(1023, 200), (1024, 200), (1025, 413)]:
            answer = await served.ask("POST", "/v1/echo", body.ljust(size))
            assert answer.status == status, size


async def test_a_body_far_over_the_bound_still_reads_its_answer(serving: Serving) -> None:
    """LO-HTTP-028."""
    async with serving(limits={"body_bytes": 1_048_576}) as served:
        answer = await served.ask("POST", "/v1/echo", b" " * 2_000_000)
        assert (answer.status, answer.headers["connection"]) == (413, "close")


POST_ECHO = (
    f"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


async def test_an_early_answer_keeps_its_socket_until_the_body_has_come(serving: Serving) -> None:
    """LO-HTTP-020, LO-HTTP-028."""
    async with serving(limits={"body_bytes": 65536}) as served:
        async with await served.connect() as stream:
            await stream.send((POST_ECHO % 100_000).encode() + b" " * 1000)
            with anyio.fail_after(ANSWER_SECONDS):
                answer = b""
                while not answer.endswith(b"}"):
                    answer += await stream.receive()
                assert parse(answer).status == 413
                with anyio.move_on_after(0.1) as still_open:
                    await stream.receive()
                assert still_open.cancelled_caught
                await stream.send(b" " * 99_000)
                assert await read_all(stream) == b""


async def test_a_body_without_end_is_cut_and_leaves_nothing_behind(serving: Serving) -> None:
    async with serving(limits={"body_bytes": 1024}) as served:

        async def send_without_end() -> None:
            head = POST_ECHO.replace("POST /v1/echo", "GET /v1/hold") % 10**9
            async with await served.connect() as stream:
                with suppress(anyio.BrokenResourceError):
                    await stream.send(head.encode())
                    while True:
                        await stream.send(b" " * 65536)

        with anyio.fail_after(ANSWER_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_without_end)
                await served.held.acquire()
                # Until the handler's inbox is full and the socket is no longer read.
                await anyio.sleep(0.1)
                served.released.set()
            while "http connection" in {task.name for task in anyio.get_running_tasks()}:
                await anyio.lowlevel.checkpoint()


async def test_a_chunked_body_is_bounded_too(serving: Serving) -> None:
    """LO-HTTP-020."""
    async with serving(limits={"body_bytes": 1024}) as served:
        head = (
            f"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
        answer = parse(await served.raw(head.encode(), chunk, chunk, b"0\r\n\r\n"))
        assert answer.status == 413


async def test_a_body_nobody_reads_does_not_hold_its_connection(serving: Serving) -> None:
    async with serving() as served:
        answer = await served.ask("POST", "/v1/nothing", b" " * 1_500_000)
        assert answer.status == 404


async def test_a_body_that_drips_is_408(serving: Serving) -> None:
    """LO-HTTP-021."""
    async with serving(limits={"body_timeout_ms": 100}) as served:
        head = (
            f"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: application/json\r\nContent-Length: 7\r\n\r\n"
        )
        answer = parse(await served.raw(head.encode(), b'{"a'))
        assert (answer.status, envelope(answer.body).code) == (408, "REQUEST_TIMEOUT")


async def test_a_schema_error_names_the_field_once(serving: Serving) -> None:
    """LO-HTTP-024."""
    async with serving() as served:
        answer = await served.ask("POST", "/v1/echo", b'{"a":-1,"b":2}')
        assert answer.status == 400
        assert answer.json["details"] == {"field": "a"}
        assert answer.json["message"].startswith("a: ")
        assert answer.json["message"].endswith("(and 1 more)")


async def test_requests_in_flight_are_bounded(serving: Serving) -> None:
    """LO-HTTP-029, LO-SYS-050."""
    async with serving(limits={"connections": 2}) as served:
        async with anyio.create_task_group() as tasks:
            answers: list[int] = []

            async def hold() -> None:
                answers.append((await served.ask("GET", "/v1/hold")).status)

            for _ in range(2):
                tasks.start_soon(hold)
            with anyio.fail_after(ANSWER_SECONDS):
                await served.held.acquire()
                await served.held.acquire()
            refused = await served.ask("GET", "/healthz")
            assert refused.status == 429
            assert refused.json["policy_label"] == "connections"
            served.released.set()
        assert answers == [200, 200]
        assert (await served.ask("GET", "/healthz")).status == 200


async def test_idle_sockets_give_way_to_new_ones(serving: Serving) -> None:
    async with serving(limits={"connections": 1}) as served:
        streams = [await served.connect() for _ in range(40)]
        assert (await served.ask("GET", "/healthz")).status == 200
        with anyio.fail_after(ANSWER_SECONDS):
            assert await read_all(streams[0]) == b""
        for stream in streams:
            await stream.aclose()


async def test_a_client_that_has_left_holds_no_socket(serving: Serving) -> None:
    """It is answered what it asked and closed at once, not after the idle time."""
    async with serving() as served:
        for asked in (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b""):
            async with await served.connect() as stream:
                await stream.send(asked or b"GET")
                await stream.send_eof()
                with anyio.fail_after(IDLE_SECONDS / 2):
                    answer = await read_all(stream)
            assert not asked or parse(answer).status == 200


async def test_a_reader_that_takes_nothing_is_cut_off(serving: Serving) -> None:
    """LO-ORC-067."""
    async with serving(limits={"send_timeout_ms": 100, "stream_buffer_bytes": 65536}) as served:
        async with await served.connect() as stream:
            head = f"GET /v1/flood HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            await stream.send(f"{head}\r\n".encode())
            with anyio.fail_after(ANSWER_SECONDS):
                await served.flood_ended.wait()


async def test_draining_refuses_work_and_goes_on_answering(serving: Serving) -> None:
    """LO-HTTP-041, LO-HTTP-045."""
    async with serving() as served:
        served.drain.begin()
        refused = await served.ask("POST", "/v1/echo", b'{"a":1}')
        assert (refused.status, envelope(refused.body).code) == (503, "SHUTTING_DOWN")
        assert refused.headers["retry-after"] == "1"
        assert (await served.ask("GET", "/v1/items/x")).status == 200
        assert (await served.ask("POST", "/v1/echo", b"{}", token=None)).status == 401


async def test_an_open_stream_ends_with_its_own_last_event(serving: Serving) -> None:
    """LO-SYS-024."""
    async with serving() as served:
        async with await served.connect() as stream:
            head = (
                f"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            )
            await stream.send(f"{head}\r\n".encode())
            with anyio.fail_after(ANSWER_SECONDS):
                first = b""
                while b"first" not in first:
                    first += await stream.receive()
                assert served.drain.streams_open == 1
                served.drain.begin()
                await served.drain.wait_idle()
                served.closing.set()
                rest = await read_all(stream)
        assert rest.endswith(b"event: error\ndata: {}\n\n\r\n0\r\n\r\n")


async def test_a_closed_server_refuses_instead_of_leaving_a_client_waiting(
    serving: Serving,
) -> None:
    async with serving() as served:
        idle, busy = await served.connect(), await served.connect()
        head = f"GET /v1/hold HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        await busy.send(f"{head}\r\n".encode())
        await served.held.acquire()
        served.closing.set()
        with anyio.fail_after(ANSWER_SECONDS):
            assert await read_all(idle) == b""
        with pytest.raises(OSError):
            await served.connect()
        served.released.set()
        with anyio.fail_after(ANSWER_SECONDS):
            assert parse(await read_all(busy)).status == 200
        await busy.aclose()
        await idle.aclose()


async def test_headers_that_drip_are_cut(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.service.http1.IDLE_SECONDS", 0.2)
    async with serving() as served:
        async with await served.connect() as stream:
            await stream.send(b"GET /healthz HTTP/1.1\r\n")
            with anyio.fail_after(ANSWER_SECONDS):
                assert await read_all(stream) == b""


async def test_a_connection_serves_many_requests_and_keeps_their_ids_apart(
    serving: Serving,
) -> None:
    async with serving() as served:
        head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Correlation-Id: id-%d\r\n"
        pieces = [(head % number).encode() + b"\r\n" for number in range(3)]
        last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        data = await served.raw(*pieces, last)
        assert data.count(b"HTTP/1.1 200") == 4
        for number in range(3):
            assert data.count(b"x-correlation-id: id-%d\r\n" % number) == 1
