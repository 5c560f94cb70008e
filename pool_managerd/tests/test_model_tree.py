"""Models that are directories: which are taken, and the digest of all their files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import anyio
import pytest

from contracts.config import Config, Pool
from contracts.pools import FailureReason
from contracts.service.settings import ConfigError, check_files
from pool_managerd.failure import LaunchRefused
from pool_managerd.models import model_tree
from pool_managerd.models.digest import ModelDigests
from pool_managerd.models.resolve import ModelResolver
from pool_managerd.models.safetensors_header import model_bytes
from pool_managerd.tests.test_safetensors_header import at, model

pytestmark = pytest.mark.anyio
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "sub/a b.txt": b"", "Z": b"z"}


def tree(root: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, content in (files or FILES).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


async def digest_of(model: Path, state_dir: Path) -> str:
    return await ModelDigests(state_dir).of(model)


async def test_the_digest_of_a_directory_is_that_of_its_documented_lines(tmp_path: Path) -> None:
    """LO-POOL-180: written down here once more, by hand."""
    lines = b"".join(
        f"{hashlib.sha256(content).hexdigest()} {len(content)} {name}\n".encode()
        for name, content in sorted(FILES.items(), key=lambda file: file[0].encode())
    )
    wanted = f"sha256:{hashlib.sha256(lines).hexdigest()}"
    assert await digest_of(tree(tmp_path / "m"), tmp_path) == wanted


def test_the_tools_of_a_shell_give_the_same_digest(tmp_path: Path) -> None:
    """LO-POOL-180: so can whoever has the files alone."""
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    script = (
        "find -L . -type f -printf '%P\\n' | LC_ALL=C sort | while read -r f; do"
        ' printf "%s %s %s\\n" "$(sha256sum <"$f" | cut -d" " -f1)" "$(stat -Lc %s "$f")" "$f";'
        " done | sha256sum"
    )
    directory = tree(tmp_path / "m")
    (directory / "link").symlink_to("sub/a b.txt")
    told = subprocess.run(["sh", "-c", script], cwd=directory, capture_output=True, check=True)
    digest = anyio.run(digest_of, directory, tmp_path)
    assert digest == f"sha256:{told.stdout.decode().split()[0]}"


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "Z").write_bytes(b"y"),
        lambda root: (root / "Z").rename(root / "Y"),
        lambda root: (root / "Z").unlink(),
        lambda root: (root / "new").write_bytes(b""),
        lambda root: (root / "sub" / "a b.txt").rename(root / "a b.txt"),
    ],
    ids=["content", "name", "gone", "new", "place"],
)
async def test_every_change_of_a_directory_is_another_digest(
    tmp_path: Path, change: object
) -> None:
    """LO-POOL-180."""
    directory, digests = tree(tmp_path / "m"), ModelDigests(tmp_path)
    before = await digests.of(directory)
    assert callable(change)
    change(directory)
    assert await digests.of(directory) != before


async def test_a_directory_that_was_not_written_to_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tree(tmp_path / "m")
    before = await digest_of(directory, tmp_path)
    monkeypatch.setattr("pool_managerd.models.digest.tree_digest", None)
    digests = ModelDigests(tmp_path)
    assert await digests.of(directory) == before
    assert await digests.known(digests.stamp(directory)) == before


async def test_the_notes_of_tools_do_not_count(tmp_path: Path) -> None:
    """LO-POOL-180."""
    before = await digest_of(tree(tmp_path / "m"), tmp_path)
    tree(tmp_path / "m", {".cache/huggingface/x.metadata": b"today", ".gitattributes": b"x"})
    assert await digest_of(tmp_path / "m", tmp_path) == before


def leads_out(root: Path) -> None:
    (root / "link").symlink_to("/etc/hostname")


def leads_up(root: Path) -> None:
    (root / "link").symlink_to("..")


def leads_nowhere(root: Path) -> None:
    (root / "link").symlink_to("none")


def leads_to_itself(root: Path) -> None:
    (root / "link").symlink_to("link")


def leads_to_a_directory(root: Path) -> None:
    (root / "link").symlink_to("sub")


def is_a_pipe(root: Path) -> None:
    os.mkfifo(root / "pipe")


def has_a_line_end(root: Path) -> None:
    (root / "a\nb").write_bytes(b"")


ODD = [
    *(leads_out, leads_up, leads_nowhere, leads_to_itself, leads_to_a_directory),
    *(is_a_pipe, has_a_line_end),
]


@pytest.mark.parametrize("odd", ODD)
async def test_what_cannot_count_is_refused(tmp_path: Path, odd: object) -> None:
    """LO-POOL-180: and nothing is waited for."""
    directory = tree(tmp_path / "m")
    assert callable(odd)
    odd(directory)
    with anyio.fail_after(5), pytest.raises(OSError, match=r"m\b"):
        await digest_of(directory, tmp_path)


@pytest.mark.parametrize(("bound", "fits"), [(5, True), (4, False)])
async def test_a_tree_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int, fits: bool
) -> None:
    """LO-POOL-180: four files and a directory, at and above the bound."""
    monkeypatch.setattr(model_tree, "ENTRIES_MAX", bound)
    directory = tree(tmp_path / "m")
    if fits:
        assert len(model_tree.files_of(directory)) == 4
        return
    with pytest.raises(OSError, match="more than 4 files"):
        model_tree.files_of(directory)


def pool_of(engine: str, ref: str, **provisioning: object) -> Pool:
    fields = {"id": "p", "engine": engine, "model": {"id": "m", "ref": ref}}
    return Pool.model_validate(
        fields | {"provisioning": provisioning or {"mode": "binary", "path": "x"}}, strict=False
    )


@pytest.mark.parametrize(
    ("engine", "directory", "file"),
    [
        ("llamacpp", "not a file", None),
        ("vllm", None, "not a directory"),
        ("tgi", None, "not a directory"),
        ("triton", None, "not a directory"),
    ],
)
async def test_an_engine_takes_a_file_or_a_directory(
    tmp_path: Path, engine: str, directory: str | None, file: str | None
) -> None:
    """LO-POOL-179."""
    places = ((tree(tmp_path / "m"), directory), (tmp_path / "m" / "Z", file))
    for path, problem in places:
        pool = pool_of(engine, f"file:{path}")
        config = Config(pools=(pool,))
        resolver, ref = ModelResolver.files_only(), pool.model.ref
        if problem is None:
            check_files(config, {})
            assert await resolver.resolve(ref, None, lambda _: None, kind=pool.model_kind) == path
            continue
        with pytest.raises(ConfigError, match=rf"pools\[0\]\.model\.ref: {problem}: "):
            check_files(config, {})
        with pytest.raises(LaunchRefused, match=problem) as caught:
            await resolver.resolve(ref, None, lambda _: None, kind=pool.model_kind)
        assert caught.value.failure.reason is FailureReason.MODEL_MISSING


def test_a_gguf_file_for_an_engine_that_takes_a_directory_is_told_its_engine(
    tmp_path: Path,
) -> None:
    """LO-POOL-179."""
    file = tmp_path / "m.GGUF"
    file.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="takes a directory, and GGUF files are for `llamacpp`"):
        check_files(Config(pools=(pool_of("vllm", f"file:{file}"),)), {})


async def test_a_command_takes_either_and_an_external_server_needs_none(tmp_path: Path) -> None:
    """LO-POOL-179."""
    for path in (tree(tmp_path / "m"), tmp_path / "m" / "Z"):
        check_files(Config(pools=(pool_of("vllm", f"file:{path}", mode="command", command=["x"]),)))
    missing = pool_of("vllm", "file:/none", mode="external", url="http://h")
    check_files(Config(pools=(missing,)))


async def test_one_file_from_elsewhere_is_no_model_of_an_engine_that_takes_a_directory() -> None:
    """LO-POOL-179."""
    with pytest.raises(LaunchRefused, match="takes a directory, and hf:o/r/x is one file"):
        await ModelResolver.files_only().resolve("hf:o/r/x", None, lambda _: None, kind="directory")


def test_weights_that_come_twice_are_counted_once(tmp_path: Path) -> None:
    """LO-POOL-091: `consolidated.safetensors` holds what the parts hold."""
    model(tmp_path, {"a": at(0, 10)}, 10, "consolidated.safetensors")
    assert model_bytes(tmp_path) == 10
    model(tmp_path, {"a": at(0, 6)}, 6, "model-00001-of-00002.safetensors")
    model(tmp_path, {"b": at(0, 4)}, 4, "model-00002-of-00002.safetensors")
    assert model_bytes(tmp_path) == 10
