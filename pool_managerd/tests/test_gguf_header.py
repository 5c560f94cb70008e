"""Headers of GGUF files: real ones, damaged ones and hostile ones."""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path

import pytest

from pool_managerd.models.ggml_types import GGML_TYPES
from pool_managerd.models.gguf_cursor import GgufError, GgufUnsupported
from pool_managerd.models.gguf_header import read_header
from test_harness.gguf_files import ARRAY, STRING, U32, file_of, pair, tensor, text

gguf = pytest.importorskip("gguf", reason="the extra `embedded` is not installed")
tiny_gguf = pytest.importorskip(
    "worker_adapters.tiny_gguf", reason="the extra `embedded` is not installed"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    tiny_gguf.write_model(path)
    return path


def test_a_real_model_is_read_as_the_package_gguf_reads_it(tiny: Path) -> None:
    """LO-POOL-090."""
    header = read_header(tiny)
    reader = gguf.GGUFReader(tiny)
    assert header.tensors.total == sum(tensor.n_bytes for tensor in reader.tensors)
    assert sorted(header.tensors.layers) == [0, 1]
    assert (header.architecture, header.block_count, header.context_length) == ("llama", 2, 8192)
    assert (header.head_count, header.head_count_kv, header.embedding_length) == (4, 2, 128)
    assert header.vocabulary == len(reader.fields["tokenizer.ggml.tokens"].data)
    assert not header.tensors.tied


def test_the_sizes_of_types_are_those_of_llama_cpp() -> None:
    theirs = {int(kind): tuple(size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: theirs.get(kind) for kind in GGML_TYPES} == GGML_TYPES


def test_version_2_is_read(tmp_path: Path) -> None:
    layers = pair("llama.block_count", U32, struct.pack("<I", 7))
    assert read_header(file_of(tmp_path, layers, version=2)).block_count == 7


def test_a_file_cut_off_anywhere_is_refused(tiny: Path, tmp_path: Path) -> None:
    """LO-POOL-090: at every length of the first 2 KB, and one byte before its end."""
    whole, cut = tiny.read_bytes(), tmp_path / "cut.gguf"
    cut.write_bytes(whole[:-1])
    lengths = [*range(2047, -1, -1)]
    with pytest.raises(GgufError, match="cut off: tensor"):
        read_header(cut)
    for length in lengths:
        os.truncate(cut, length)
        with pytest.raises(GgufError, match=r"cut\.gguf: at offset \d+: "):
            read_header(cut)


def test_two_thousand_damaged_bytes_are_read_or_refused_and_never_slow(
    tiny: Path, tmp_path: Path
) -> None:
    """LO-POOL-090."""
    content = bytearray(tiny.read_bytes())
    path = tmp_path / "flipped.gguf"
    path.write_bytes(content)
    header_bytes = len(content) - read_header(tiny).tensors.total
    rng, refusals, slowest = random.Random(7), list[str](), 0.0
    with path.open("r+b", buffering=0) as file:
        for number in range(2000):
            # Half of them where the numbers lie: the first pairs, and the table of tensors.
            places = (header_bytes, 600, header_bytes, 1400)[number % 4]
            place = rng.randrange(places)
            place = header_bytes - 1 - place if number % 4 == 3 else place
            os.pwrite(file.fileno(), bytes([content[place] ^ (1 << rng.randrange(8))]), place)
            began = time.thread_time()
            try:
                read_header(path)
            except GgufError as error:
                refusals.append(str(error))
            slowest = max(slowest, time.thread_time() - began)
            os.pwrite(file.fileno(), content[place : place + 1], place)
    assert 200 < len(refusals) < 2000
    assert all(refusal.startswith(f"{path}: ") for refusal in refusals)
    assert slowest < 0.5


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([text("k") + struct.pack("<IIQ", ARRAY, STRING, 2**40)], "array claims"),
        ([text("k") + struct.pack("<IIQ", ARRAY, U32, 2**24)], "cut off"),
        ([text("k") + struct.pack("<IIQ", ARRAY, STRING, 2**20)], "more than what is left"),
        ([text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1)], "an array holds arrays"),
        ([struct.pack("<Q", 2**63)], "a key claims"),
        ([pair("k", 77, b"")], "no type of values 77"),
        ([pair("k", U32, bytes(4))] * 2, "repeated"),
        ([pair("general.alignment", U32, struct.pack("<I", 24))], "no power of two"),
        ([pair("general.alignment", U32, bytes(4))], "general.alignment is 0"),
        ([pair("llama.block_count", U32, b"\xff" * 4)], "block_count is 4294967295"),
    ],
)
def test_claims_beyond_the_file_or_the_bounds_are_refused(
    tmp_path: Path, pairs: list[bytes], words: str
) -> None:
    """LO-POOL-090."""
    with pytest.raises(GgufError, match=words):
        read_header(file_of(tmp_path, *pairs))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([tensor("a", 16)], "tensor 'a' ends 64 bytes into the data, which has 32"),
        ([tensor("a", 8, offset=32)], "ends 64"),
        ([tensor("a", 8, offset=2**64 - 32)], "cut off"),
        ([tensor("a", 2**40, 2**40)], "more than"),
        ([tensor("a", 0)], "dimension of 0"),
        ([tensor("a", 8, offset=4)], "no multiple of 32"),
        ([tensor("a", 33, kind=2)], "rows of 33"),
        ([tensor("a", 1, 1, 1, 1, 1)], "5 dimensions"),
        ([tensor("a", 8)] * 2, "one name"),
        ([tensor("a", 8), tensor("b", 8)], "overlap"),
        ([tensor("blk.2000.x", 8)], "beyond layer"),
    ],
)
def test_tensors_that_do_not_lie_in_the_file_are_refused(
    tmp_path: Path, tensors: list[bytes], words: str
) -> None:
    """LO-POOL-090: offset and size are compared with the length of the file."""
    assert read_header(file_of(tmp_path, tensors=(tensor("a", 8),), data=32)).tensors.total == 32
    with pytest.raises(GgufError, match=words):
        read_header(file_of(tmp_path, tensors=tuple(tensors), data=32))


def test_what_a_newer_engine_may_know_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(GgufUnsupported, match="type 99"):
        read_header(file_of(tmp_path, tensors=(tensor("a", 8, kind=99),), data=32))
    with pytest.raises(GgufUnsupported, match="version 4"):
        read_header(file_of(tmp_path, version=4))


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(GgufError, match="not a regular file"):
        read_header(tmp_path / "pipe.gguf")


def test_the_parts_of_a_split_model_are_added_up(tmp_path: Path) -> None:
    count = pair("split.count", 2, struct.pack("<H", 2))
    first = file_of(
        tmp_path,
        count,
        tensors=(tensor("blk.0.x", 8),),
        data=32,
        name="m-00001-of-00002.gguf",
    )
    with pytest.raises(GgufError, match=r"m-00002-of-00002\.gguf is not there"):
        read_header(first)
    file_of(
        tmp_path,
        count,
        tensors=(tensor("blk.1.x", 16),),
        data=64,
        name="m-00002-of-00002.gguf",
    )
    header = read_header(first)
    assert (header.tensors.layers, header.parts) == ({0: 32, 1: 64}, 2)


def test_an_array_that_nothing_asks_for_is_not_kept(tmp_path: Path) -> None:
    """LO-POOL-090: kept as Python numbers, 32 MB of arrays took 300 MB."""
    value = struct.pack("<IQ", U32, 1024) + bytes(4096)
    names = ("llama.anything", "llama.attention.head_count_kv")
    header = read_header(file_of(tmp_path, *(pair(name, ARRAY, value) for name in names)))
    assert header.facts == {"attention.head_count_kv": (0,) * 1024}
