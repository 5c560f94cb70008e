"""The model cache: whose file lies where, what goes first, and what never leaves it."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.cache import digest_directory
from test_harness.downloads import MIB, Downloading, content_of, downloading, sha256, under
from test_harness.model_server import ModelServer

pytestmark = pytest.mark.anyio
R = FailureReason
SIZE = 100_000
# A break loses what the HTTP client has not handed on, 128 KiB at most.
BIG = content_of(2 * MIB, 9)
FILES = {f"/{name}.gguf": content_of(SIZE, seed) for seed, name in enumerate("abcd")}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    etags = {path: f'"{path}"' for path in FILES}
    async with ModelServer(files=dict(FILES), etags=etags).serving() as it:
        yield it


def kept(it: Downloading) -> set[str]:
    """The names of the models that are there."""
    by_digest = {sha256(content)[7:]: path[1] for path, content in FILES.items()}
    return {by_digest[path.parent.name] for path in it.root.rglob("*.gguf")}


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "a" * 64,
        f"sha256:{'a' * 63}",
        f"sha256:{'a' * 65}",
        f"sha256:{'A' * 64}",
        f"sha256:{'a' * 64}\n",
        f"sha512:{'a' * 64}",
        "sha256:../../../etc/passwd",
        f"sha256:{'a' * 61}/..",
    ],
)
async def test_only_a_whole_digest_names_a_directory(
    server: ModelServer, tmp_path: Path, digest: str
) -> None:
    """LO-POOL-116."""
    assert digest_directory(f"sha256:{'a' * 64}") == "a" * 64
    with pytest.raises(LaunchRefused):
        digest_directory(digest)
    async with downloading(tmp_path) as it:
        reason, message = await it.refusal(server.url + "/a.gguf", digest)
    assert reason is R.MODEL_INVALID
    assert "64 lower-case hex" in message
    assert (server.seen, under(tmp_path)) == ([], [])


@pytest.mark.parametrize("place", ["parts", "blobs"])
async def test_a_directory_that_is_a_link_is_not_entered(
    server: ModelServer, tmp_path: Path, place: str
) -> None:
    """LO-POOL-117."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "models").mkdir(mode=0o700)
    (tmp_path / "models" / place).symlink_to(outside)
    async with downloading(tmp_path) as it:
        reason, message = await it.refusal(server.url + "/a.gguf")
    assert reason is R.DOWNLOAD_FAILED
    assert "cannot be used" in message
    assert under(outside) == []


async def test_a_link_in_the_place_of_a_file_is_not_followed(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-117: of a part, of a model, and of a model's directory."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    server.files["/big.gguf"], server.etags["/big.gguf"] = BIG, '"big"'
    async with downloading(tmp_path) as it:
        server.faults["/big.gguf"] = ["short"]
        await it.refusal(server.url + "/big.gguf")
        (part,) = under(tmp_path, "*.part")
        part.unlink()
        part.symlink_to(precious)
        assert "cannot be used" in (await it.refusal(server.url + "/big.gguf"))[1]
        part.unlink()
        server.faults["/big.gguf"] = ["ok"]
        path = await it.fetch(server.url + "/big.gguf")
        path.unlink()
        path.symlink_to(precious)
        assert (await it.fetch(server.url + "/big.gguf")).read_bytes() == BIG
        directory = path.parent
        path.unlink()
        directory.rmdir()
        directory.symlink_to(tmp_path)
        assert (await it.fetch(server.url + "/big.gguf")).read_bytes() == BIG
    assert precious.read_bytes() == b"mine"
    assert not directory.is_symlink()


async def test_a_directory_others_can_read_is_refused(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir(mode=0o755)
    async with downloading(tmp_path) as it:
        assert "chmod 700" in (await it.refusal(server.url + "/a.gguf"))[1]


async def test_the_longest_unused_goes_and_one_in_use_never(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-119."""
    async with downloading(tmp_path, {"max_cache_bytes": 3 * SIZE}) as it:
        await it.fetch(server.url + "/a.gguf", holder="p/0")
        for name in "bcb":
            await it.fetch(f"{server.url}/{name}.gguf")
        await it.fetch(server.url + "/d.gguf")
        assert kept(it) == {"a", "b", "d"}, "a is held, b was used after c"


async def test_what_is_passed_as_in_use_is_not_removed(server: ModelServer, tmp_path: Path) -> None:
    """LO-POOL-119: and where all is in use, the figures are told."""
    async with downloading(
        tmp_path, {"max_cache_bytes": 2 * SIZE, "s3": {"endpoint": server.url}}
    ) as it:
        server.files |= {f"/bucket{path}": content for path, content in FILES.items()}
        a = await it.resolve("s3:bucket/a.gguf")
        b = await it.resolve("s3:bucket/b.gguf")
        with pytest.raises(LaunchRefused) as refused:
            await it.resolve("s3:bucket/c.gguf", None, [a, b])
        assert refused.value.failure.reason is R.DOWNLOAD_FAILED
        assert f"max_cache_bytes is {2 * SIZE}" in str(refused.value)
        assert kept(it) == {"a", "b"}
        await it.resolve("s3:bucket/c.gguf", None, [a])
        assert kept(it) == {"a", "c"}


async def test_a_hold_outlives_the_process_and_ends_with_its_replica(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-119."""
    changes = {"max_cache_bytes": 2 * SIZE}
    async with downloading(tmp_path, changes) as it:
        await it.fetch(server.url + "/a.gguf", holder="p/0")
        await it.fetch(server.url + "/b.gguf", holder="p/1")
    async with downloading(tmp_path, changes, holders=["p/0", "p/1"]) as it:
        assert "is left is in use" in (await it.refusal(server.url + "/c.gguf"))[1]
        await it.fetch(server.url + "/b.gguf", holder="p/0")
        await it.fetch(server.url + "/c.gguf")
        assert kept(it) == {"b", "c"}, "p/0 holds b now, so a went"
    async with downloading(tmp_path, changes, holders=[]) as it:
        await it.fetch(server.url + "/d.gguf")
        assert kept(it) == {"c", "d"}, "p/0 and p/1 are gone from the configuration"


async def test_the_floor_of_the_disk_is_kept(server: ModelServer, tmp_path: Path) -> None:
    """LO-POOL-119: by removing what is unused, then by refusing with the figures."""
    disk = 3 * SIZE

    def free(_: int) -> int:
        return disk - sum(path.stat().st_size for path in under(tmp_path, "*.gguf"))

    async with downloading(tmp_path, {"disk_floor_bytes": SIZE}, free=free) as it:
        await it.fetch(server.url + "/a.gguf")
        await it.fetch(server.url + "/b.gguf", holder="p/0")
        await it.fetch(server.url + "/c.gguf", holder="p/1")
        assert kept(it) == {"b", "c"}
        reason, message = await it.refusal(server.url + "/d.gguf")
    assert reason is R.DOWNLOAD_FAILED
    assert f"disk_floor_bytes is {SIZE}" in message
    assert f"leave 0 of the {SIZE}" in message


async def test_an_idle_download_makes_room_and_a_mismatch_stays(
    server: ModelServer, tmp_path: Path
) -> None:
    def free(_: int) -> int:
        return 0 if under(tmp_path, "*.part") else 10 * SIZE

    server.files["/big.gguf"], server.etags["/big.gguf"] = BIG, '"big"'
    server.faults["/big.gguf"] = ["short"]
    async with downloading(tmp_path) as it:
        await it.refusal(server.url + "/big.gguf")
        await it.refusal(server.url + "/b.gguf", sha256(b"other"))
        assert len(under(tmp_path, "*.part")) == 1
    server.faults["/big.gguf"] = ["ok"]
    async with downloading(tmp_path, {"disk_floor_bytes": SIZE}, free=free) as it:
        assert "disk_floor_bytes" in (await it.refusal(server.url + "/c.gguf"))[1]
    assert len(under(tmp_path, "*.part")) == 0, "also the new one, which is empty"
    assert len(under(tmp_path, "*.mismatch")) == 1


async def test_a_full_disk_is_told_and_what_came_is_kept(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with downloading(tmp_path) as it:
        with monkeypatch.context() as patch:
            patch.setattr("pool_managerd.models.part_file.os.pwrite", full)
            reason, message = await it.refusal(server.url + "/a.gguf")
        assert reason is R.DOWNLOAD_FAILED
        assert "is full" in message
        await it.fetch(server.url + "/a.gguf")


async def test_half_made_things_go_and_a_lost_index_is_made_anew(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-116."""
    async with downloading(tmp_path) as it:
        path = await it.fetch(server.url + "/a.gguf")
    (path.parent.parent / f".{'a' * 64}.new").mkdir()
    (tmp_path / "models/parts/x.json.new").write_bytes(b"")
    (tmp_path / "models/index.json").write_text("[1")
    async with downloading(tmp_path, {"allow": False}) as it:
        assert await it.fetch("http://127.0.0.1/x", sha256(FILES["/a.gguf"])) == path
        assert it.files() == {str(path.relative_to(tmp_path))}
    assert under(path.parent.parent) == [path.parent, path]
    assert len(server.seen) == 1


async def test_a_damaged_model_is_fetched_again(server: ModelServer, tmp_path: Path) -> None:
    async with downloading(tmp_path) as it:
        path = await it.fetch(server.url + "/a.gguf")
        os.truncate(path, 5)
        assert (await it.fetch(server.url + "/a.gguf")).stat().st_size == SIZE


async def test_a_file_ref_is_its_path_and_needs_no_cache(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"x")
    async with downloading(tmp_path, {"allow": False}) as it:
        assert await it.resolve(f"file:{model}") == model
        with pytest.raises(LaunchRefused) as refused:
            await it.resolve("file:/no/such.gguf")
        assert refused.value.failure.reason is R.MODEL_MISSING
        with pytest.raises(LaunchRefused) as refused:
            await it.resolve("hf:o/r/../x")
        assert refused.value.failure.reason is R.BAD_ARGUMENT
    assert it.files() == {"m.gguf"}
