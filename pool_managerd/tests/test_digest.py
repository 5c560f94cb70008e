"""Digests of model files."""

import hashlib
import os
from pathlib import Path

import anyio
import pytest

from pool_managerd.models.digest import ModelDigests

pytestmark = pytest.mark.anyio


async def test_a_digest_is_that_of_the_content_and_is_remembered_over_restarts(
    tmp_path: Path,
) -> None:
    model = tmp_path / "m"
    model.write_bytes(b"weights")
    wanted = f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    assert await ModelDigests(tmp_path).of(model) == wanted
    before = model.stat()
    model.write_bytes(b"WEIGHTS")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await ModelDigests(tmp_path).of(model) == wanted, "same inode, size and mtime: not read"
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert await ModelDigests(tmp_path).of(model) != wanted


async def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "model-digests.json").write_text("[1")
    model = tmp_path / "m"
    model.write_bytes(b"")
    assert (await ModelDigests(tmp_path).of(model)).startswith("sha256:e3b0c442")


async def test_many_askers_share_one_reading(tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.write_bytes(b"weights")
    digests, answers = ModelDigests(tmp_path), set()

    async def ask() -> None:
        answers.add(await digests.of(model))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(ask)
    assert len(answers) == 1


async def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await ModelDigests(tmp_path).of(tmp_path / "none")


async def test_what_python_compiles_beside_a_model_is_no_part_of_it(tmp_path: Path) -> None:
    """LO-WRK-164."""
    model, digests = tmp_path / "model", ModelDigests(tmp_path / "state")
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text("pass")
    before = await digests.of(model)
    (model / "1" / "__pycache__").mkdir()
    (model / "1" / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"compiled")
    assert await digests.of(model) == before
    (model / "1" / "other.py").write_text("pass")
    assert await digests.of(model) != before


async def test_of_a_split_model_every_part_counts_whatever_its_name(tmp_path: Path) -> None:
    """LO-POOL-180: the first part may hold no weights at all."""
    digests, seen = ModelDigests(tmp_path), []
    for name, second in (("one", b"weights"), ("two", b"weights"), ("two", b"others!")):
        first = tmp_path / f"{name}-00001-of-00002.gguf"
        first.write_bytes(b"names")
        (tmp_path / f"{name}-00002-of-00002.gguf").write_bytes(second)
        seen.append((await digests.of(first), await digests.of_file(first), digests.stamp(first)))
        assert await digests.known(seen[-1][2]) == seen[-1][0]
    assert seen[0][0] == seen[1][0] != seen[2][0]
    assert seen[1][2] != seen[2][2]
    listed = "".join(
        f"{hashlib.sha256(content).hexdigest()} {len(content)} model-{number:05}-of-00002.gguf\n"
        for number, content in enumerate((b"names", b"weights"), start=1)
    )
    assert seen[0][0] == f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}"
    assert {one[1] for one in seen} == {f"sha256:{hashlib.sha256(b'names').hexdigest()}"}
    (tmp_path / "two-00002-of-00002.gguf").unlink()
    with pytest.raises(FileNotFoundError):
        await digests.of(tmp_path / "two-00001-of-00002.gguf")
