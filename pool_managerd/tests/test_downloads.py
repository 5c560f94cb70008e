"""Downloads over HTTP: what a server may do wrong, and where it may send us."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from contracts.pools import FailureReason, Phase, Preparation
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.progress import Progress
from test_harness.downloads import MIB, content_of, downloading, sha256, under
from test_harness.model_server import ModelServer

pytestmark = pytest.mark.anyio
R = FailureReason
CONTENT = content_of(3 * MIB + 5)
PATH = "/models/tiny.gguf"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(files={PATH: CONTENT}, etags={PATH: '"v1"'}).serving() as it:
        yield it


async def test_a_file_is_fetched_once_and_named_after_its_digest(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-111, LO-POOL-115, LO-POOL-116."""
    async with downloading(tmp_path) as it:
        path = await it.fetch(server.url + PATH)
        assert path == tmp_path / "models/blobs" / sha256(CONTENT)[7:] / "model.gguf"
        assert path.read_bytes() == CONTENT
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert await it.fetch(server.url + PATH, sha256(CONTENT)) == path
        assert it.files() == {str(path.relative_to(tmp_path))}
    async with downloading(tmp_path, {"allow": False}) as it:
        assert await it.fetch(server.url + PATH) == path, "what is here needs no policy"
    assert len(server.bodies(PATH)) == 1
    assert "Authorization" not in server.seen[0].headers
    assert server.seen[0].headers["Accept-Encoding"] == "identity"


async def test_how_far_it_has_come_is_told_a_few_times(server: ModelServer, tmp_path: Path) -> None:
    """LO-POOL-121."""
    async with downloading(tmp_path) as it:
        await it.fetch(server.url + PATH)
    assert it.told[0].phase is Phase.RESOLVING
    assert {told.phase for told in it.told[1:]} == {Phase.DOWNLOADING}
    assert {told.what for told in it.told[1:]} == {"tiny.gguf"}
    assert (it.told[-1].done, it.told[-1].total) == (len(CONTENT), len(CONTENT))


async def test_a_fast_download_is_told_five_times_a_second_and_at_its_end() -> None:
    """LO-POOL-121."""

    class Clock:
        now = 0

        def now_ms(self) -> int:
            return self.now

        def unix_ms(self) -> int:
            return 1_000 + self.now

    clock, told = Clock(), list[Preparation]()
    progress = Progress(clock, [told.append])
    progress.begin(Phase.DOWNLOADING, "x" * 600)
    for clock.now in range(1_000):
        progress.bytes(clock.now, 5_000)
    assert [preparation.done for preparation in told] == [None, 0, 200, 400, 600, 800]
    progress.bytes(5_000, 5_000)
    assert told[-1].done == 5_000
    assert {(preparation.since_ms, len(preparation.what)) for preparation in told} == {(1_000, 512)}


async def test_without_leave_nothing_is_asked_and_nothing_written(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-111."""
    async with downloading(tmp_path, {"allow": False}) as it:
        reason, message = await it.refusal(server.url + PATH)
    assert reason is R.DOWNLOAD_DENIED
    assert "policy.downloads.allow" in message
    assert server.seen == []
    assert under(tmp_path) == []


@pytest.mark.parametrize(
    ("hosts", "url", "words"),
    [
        ([], "https://models.example/x", "models.example is not allowed"),
        (["*.example"], "https://example/x", "example is not allowed"),
        (["models.example"], "https://models.example.evil/x", "not allowed"),
        (["models.example"], "http://models.example/x", "not encrypted"),
        (["10.0.0.1"], "http://10.0.0.1/x", "not encrypted"),
        (["127.0.0.1"], "https://127.1/x", "not allowed"),
        (["*.1"], "https://0x7f.1/x", "not allowed"),
        (["models.example"], "https://u:p@models.example/x", "user or a password"),
        (["models.example"], "ftp://models.example/x", "only https:"),
    ],
)
async def test_a_host_or_scheme_that_is_not_allowed_is_denied(
    hosts: list[str], url: str, words: str, tmp_path: Path
) -> None:
    """LO-POOL-111, LO-POOL-112."""
    async with downloading(tmp_path, {"hosts": hosts}) as it:
        reason, message = await it.refusal(url)
    assert reason is R.DOWNLOAD_DENIED
    assert words in message
    assert it.files() == set()


async def test_a_name_that_resolves_inside_is_denied(server: ModelServer, tmp_path: Path) -> None:
    """LO-POOL-113: looked up once, and connected to nowhere."""
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["1.1.1.1"] if not asked else ["127.0.0.1"]

    changes = {"hosts": ["*.example"]}
    async with downloading(tmp_path, changes, lookup=lookup) as it:
        port = server.address.partition(":")[2]
        reason, message = await it.refusal(f"https://m.example:{port}/x")
    assert reason is R.DOWNLOAD_DENIED
    assert "127.0.0.1, an address of this machine" in message
    assert asked == ["m.example"]
    assert server.seen == []


async def test_a_body_that_breaks_off_is_resumed_by_range(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-114."""
    server.faults[PATH] = ["short", "short", "ok"]
    async with downloading(tmp_path) as it:
        path = await it.fetch(server.url + PATH)
    assert path.read_bytes() == CONTENT
    first, second, third = server.bodies(PATH)
    assert "Range" not in first.headers
    assert second.headers["If-Range"] == third.headers["If-Range"] == '"v1"'
    assert second.headers["Range"] < third.headers["Range"], "each went on further"


async def test_a_server_that_always_breaks_off_is_given_up_with_its_part_kept(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-114."""
    server.faults[PATH] = ["short"]
    async with downloading(tmp_path) as it:
        reason, message = await it.refusal(server.url + PATH)
        assert reason is R.DOWNLOAD_FAILED
        assert "tried 5 times" in message
        server.faults[PATH] = ["ok"]
        assert (await it.fetch(server.url + PATH)).read_bytes() == CONTENT
    assert "Range" in server.bodies(PATH)[-1].headers


@pytest.mark.parametrize("fault", ["no-range", "no-such-range"])
async def test_without_ranges_it_begins_again(
    server: ModelServer, tmp_path: Path, fault: str
) -> None:
    """LO-POOL-114."""
    server.faults[PATH] = ["short", fault, "ok"]
    async with downloading(tmp_path) as it:
        assert (await it.fetch(server.url + PATH)).read_bytes() == CONTENT


@pytest.mark.parametrize("manners", ["ok", "ignores-if-range"])
async def test_a_file_that_changed_meanwhile_is_never_mixed(
    server: ModelServer, tmp_path: Path, manners: str
) -> None:
    """LO-POOL-114."""
    server.faults[PATH] = ["stall", manners, "ok"]
    new = content_of(len(CONTENT), seed=1)
    async with downloading(tmp_path) as it, anyio.create_task_group() as group:
        group.start_soon(it.fetch, server.url + PATH)
        await server.halves.wait()
        await until_part(tmp_path, MIB)
        group.cancel_scope.cancel()
    server.files[PATH], server.etags[PATH] = new, '"v2"'
    async with downloading(tmp_path) as it:
        assert (await it.fetch(server.url + PATH)).read_bytes() == new
    assert server.bodies(PATH)[1].headers["If-Range"] == '"v1"'


async def until_part(root: Path, size: int) -> None:
    """Return once a part on the disk has so many bytes."""
    with anyio.fail_after(10):
        while not any(  # noqa: ASYNC110  (another process may write it)
            part.stat().st_size >= size for part in under(root, "*.part")
        ):
            await anyio.sleep(0.005)


async def test_without_a_strong_etag_or_a_digest_nothing_is_resumed(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-114."""
    server.etags[PATH] = 'W/"v1"'
    server.faults[PATH] = ["short", "ok"]
    async with downloading(tmp_path) as it:
        await it.fetch(server.url + PATH)
    assert all("Range" not in seen.headers for seen in server.bodies(PATH))
    server.faults[PATH] = ["short", "ok"]
    async with downloading(tmp_path / "other") as it:
        await it.fetch(server.url + PATH, sha256(CONTENT))
    assert "Range" in server.bodies(PATH)[-1].headers, "the digest tells in the end"


async def test_a_wrong_file_is_kept_aside_and_never_served(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-115: with both digests in the message, not fetched again, served once asked for."""
    wanted = sha256(b"another")
    async with downloading(tmp_path) as it:
        reason, message = await it.refusal(server.url + PATH, wanted)
        assert reason is R.MODEL_INVALID
        assert wanted in message
        assert sha256(CONTENT) in message
        (aside,) = [name for name in it.files() if name.endswith(".mismatch")]
        assert Path(aside).name in message
        assert (tmp_path / aside).read_bytes() == CONTENT
        assert not [name for name in it.files() if "blobs" in name]
        again = await it.refusal(server.url + PATH, wanted)
        assert again[0] is R.MODEL_INVALID
        assert len(server.bodies(PATH)) == 1
        assert (await it.fetch(server.url + PATH, sha256(CONTENT))).read_bytes() == CONTENT
    assert len(server.bodies(PATH)) == 1


async def test_more_than_announced_is_refused(server: ModelServer, tmp_path: Path) -> None:
    """LO-POOL-114."""
    server.headers[PATH] = {"X-Linked-Size": str(len(CONTENT))}
    server.files["/o/r/resolve/main/tiny.gguf"] = CONTENT
    server.headers["/o/r/resolve/main/tiny.gguf"] = server.headers[PATH]
    server.faults["/o/r/resolve/main/tiny.gguf"] = ["longer"]
    async with downloading(tmp_path, {"hf_endpoint": server.url}) as it:
        with pytest.raises(LaunchRefused, match="more than the"):
            await it.resolve("hf:o/r/tiny.gguf")
    assert [name for name in it.files() if "blobs" in name] == []


async def test_a_file_beyond_the_bound_is_refused_before_its_body(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-114: at the bound it is fetched, with one byte more it is not."""
    async with downloading(tmp_path, {"max_bytes": len(CONTENT) - 1}) as it:
        reason, message = await it.refusal(server.url + PATH)
        assert reason is R.DOWNLOAD_FAILED
        assert "policy.downloads.max_bytes" in message
        server.faults[PATH] = ["longer"]
        assert "may have" in (await it.refusal(server.url + PATH))[1], "nor unannounced"
    server.faults[PATH] = ["ok"]
    async with downloading(tmp_path, {"max_bytes": len(CONTENT)}) as it:
        await it.fetch(server.url + PATH)


async def test_an_encoded_body_is_refused(server: ModelServer, tmp_path: Path) -> None:
    server.faults[PATH] = ["gzip"]
    async with downloading(tmp_path) as it:
        assert "encoded" in (await it.refusal(server.url + PATH))[1]


async def test_a_transfer_that_stands_still_is_broken_off_and_resumed(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-114."""
    server.faults[PATH] = ["stall", "ok"]
    async with downloading(tmp_path, {"stall_timeout_ms": 200}) as it:
        assert (await it.fetch(server.url + PATH)).read_bytes() == CONTENT
    assert "Range" in server.bodies(PATH)[-1].headers


@pytest.mark.parametrize(
    ("target", "reason", "words"),
    [
        ("http://mirror.example/x", R.DOWNLOAD_DENIED, "mirror.example is not allowed"),
        ("http://listed.example/x", R.DOWNLOAD_DENIED, "not encrypted"),
        ("http://169.254.169.254/latest", R.DOWNLOAD_DENIED, "169.254.169.254 is not allowed"),
        ("http://[::ffff:7f00:1]/x", R.DOWNLOAD_DENIED, "not allowed"),
        ("https://inside.example/x", R.DOWNLOAD_DENIED, "10.0.0.1, an address of a private"),
        ("file:///etc/passwd", R.DOWNLOAD_DENIED, "not allowed"),
        ("http://[", R.DOWNLOAD_FAILED, "no URL"),
    ],
)
async def test_each_redirect_is_a_decision_of_its_own(
    server: ModelServer, tmp_path: Path, target: str, reason: R, words: str
) -> None:
    """LO-POOL-112, LO-POOL-113."""

    async def lookup(host: str, port: int) -> list[str]:
        return ["10.0.0.1"]

    server.redirects[PATH] = target
    changes = {"hosts": ["127.0.0.1", "listed.example", "inside.example"]}
    async with downloading(tmp_path, changes, lookup=lookup) as it:
        assert (await it.refusal(server.url + PATH))[0] is reason
        assert words in (await it.refusal(server.url + PATH))[1]


async def test_endless_redirects_come_to_an_end(server: ModelServer, tmp_path: Path) -> None:
    """LO-POOL-112."""
    server.redirects[PATH] = server.url + PATH
    async with downloading(tmp_path) as it:
        assert "more than 5 redirects" in (await it.refusal(server.url + PATH))[1]
    assert len(server.seen) == 6


@pytest.mark.parametrize(
    ("status", "words"), [(404, "check the ref"), (403, "hf_token_file"), (418, "418")]
)
async def test_a_refusal_of_the_server_is_told_at_once(
    server: ModelServer, tmp_path: Path, status: int, words: str
) -> None:
    server.statuses[PATH] = status
    async with downloading(tmp_path) as it:
        reason, message = await it.refusal(server.url + PATH)
    assert reason is R.DOWNLOAD_FAILED
    assert words in message
    assert len(server.seen) == 1


async def test_a_busy_or_missing_server_is_asked_again(tmp_path: Path) -> None:
    async with ModelServer(statuses={PATH: 503}).serving() as server:
        async with downloading(tmp_path) as it:
            assert "answered 503" in (await it.refusal(server.url + PATH))[1]
        assert len(server.seen) == 5
    async with downloading(tmp_path) as it:
        assert "cannot connect" in (await it.refusal(server.url + PATH))[1]


async def test_two_at_once_are_one_download(server: ModelServer, tmp_path: Path) -> None:
    """LO-POOL-120: and its failure is one, too."""
    paths: list[Path] = []
    refusals: list[str] = []

    async def want(url: str) -> None:
        try:
            paths.append(await it.fetch(url))
        except LaunchRefused as refused:
            refusals.append(refused.failure.message)

    async with downloading(tmp_path) as it, anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(want, server.url + PATH)
            group.start_soon(want, server.url + "/missing")
    assert len(set(paths)) == 1
    assert len(paths) == 4
    assert len(refusals) == 4
    assert len(server.bodies(PATH)) == len(server.bodies("/missing")) == 1


async def test_the_next_one_goes_on_when_the_first_is_canceled(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-120."""
    server.faults[PATH] = ["stall", "ok"]
    paths: list[Path] = []

    async def want() -> None:
        paths.append(await it.fetch(server.url + PATH))

    async with downloading(tmp_path) as it, anyio.create_task_group() as group:
        first = anyio.CancelScope()

        async def leave() -> None:
            with first:
                await want()

        group.start_soon(leave)
        await server.halves.wait()
        group.start_soon(want)
        await until_part(tmp_path, MIB)
        first.cancel()
    assert [path.read_bytes() for path in paths] == [CONTENT]
    assert "Range" in server.bodies(PATH)[-1].headers


FETCH = """
import sys, anyio
from pathlib import Path
from test_harness.downloads import downloading
async def main():
    async with downloading(Path(sys.argv[1])) as it:
        await it.fetch(sys.argv[2])
anyio.run(main)
"""


@pytest.mark.slow
async def test_a_killed_download_is_resumed_by_the_next_process(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-114: and the lock of the dead one holds nobody up."""
    server.faults[PATH] = ["stall", "ok"]
    process = await anyio.open_process(
        [sys.executable, "-c", FETCH, str(tmp_path), server.url + PATH]
    )
    async with process:
        await until_part(tmp_path, MIB)
        async with downloading(tmp_path) as it:
            reason, message = await it.refusal(server.url + PATH)
        assert reason is R.DOWNLOAD_FAILED
        assert "another pool_managerd uses the model cache" in message
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with downloading(tmp_path) as it:
        path = await it.fetch(server.url + PATH)
    assert path.read_bytes() == CONTENT
    assert "Range" in server.bodies(PATH)[-1].headers
    assert it.files() == {str(path.relative_to(tmp_path))}


async def test_over_tls_the_name_is_checked_at_the_vetted_address(tmp_path: Path) -> None:
    """LO-POOL-113: the address is ours, Host and the certificate's name are the server's."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    await anyio.run_process(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2"),
            *("-subj", "/CN=m.example", "-addext", "subjectAltName=DNS:m.example"),
        ],
        stderr=subprocess.DEVNULL,
    )
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(cert, key)
    ours = ssl.create_default_context(cafile=str(cert))

    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    changes = {"hosts": ["*.example", "127.0.0.1"]}
    async with ModelServer(files={PATH: CONTENT}).serving(theirs) as server:
        port = server.address.partition(":")[2]
        async with downloading(tmp_path, changes, lookup=lookup, tls=ours) as it:
            await it.resolve(f"https://m.example:{port}{PATH}")
            other = await it.refusal(f"https://n.example:{port}{PATH}")
    assert server.seen[0].headers["Host"] == f"m.example:{port}"
    assert "certificate" in other[1].lower()
    assert len(server.seen) == 1
