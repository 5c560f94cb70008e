"""What the header of a GGUF model file says: its geometry, and the sizes of its tensors.

The layout is that of `docs/gguf.md` in the ggml repository, versions 2 and 3,
little-endian:

    "GGUF", u32 version, u64 tensors, u64 pairs
    pairs:    string key, u32 type, value
    tensors:  string name, u32 dimensions, u64 each, u32 type, u64 offset
    padding to `general.alignment`, then the data

A file comes from anywhere, so nothing in it is believed: every count and length
is bounded, every product is checked, and a tensor that ends behind the end of
its file is refused (the class of CVE-2026-7482).  Tensor data is never read.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from array import array
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from pool_managerd.models.ggml_types import GGML_TYPES
from pool_managerd.models.gguf_cursor import Cursor, GgufError, GgufUnsupported

MAGIC = b"GGUF"
PAIRS_MAX = 4096
TENSORS_MAX = 65_536
KEY_BYTES_MAX = 65_535
NAME_BYTES_MAX = 63
"""ggml's own bound on the name of a tensor."""
ELEMENTS_MAX = 16 * 1024 * 1024
"""Of one array."""
DIMENSIONS_MAX = 4
LAYERS_MAX = 1024
PARTS_MAX = 256
ALIGNMENT_DEFAULT = 32
ALIGNMENT_MAX = 1024 * 1024
SIZE_MAX = 2**63 - 1
TEXT_BYTES_MAX = 256
"""Of a string that is kept."""

_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q"}
_NUMBERS |= {12: "d"}
"""Type codes of `array` by GGUF's numbers of the value types."""
_LAYER = re.compile(r"blk\.([0-9]{1,4})\..+")
_PART = re.compile(r"(.+)-00001-of-([0-9]{5})\.gguf")
_EMBEDDINGS = "token_embd.weight"
_INPUT = ("token_embd", "per_layer_token_embd.", "position_embd.", "token_types.")
_PER_LAYER = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.sliding_window_pattern",
)
"""Arrays that are kept, by the ends of their keys; any other is passed over."""

Pairs: TypeAlias = "dict[str, int | float | str | array[int] | array[float]]"


@dataclass(frozen=True, slots=True)
class Tensors:
    """Bytes of tensors, by where an engine puts them."""

    layers: dict[int, int]
    input: int
    """Tables that are looked up in; llama.cpp leaves them in the memory of the host."""
    output: int
    """Everything else outside the layers."""
    embeddings: int
    """The table of the tokens, which is a part of `input`."""
    tied: bool
    """Whether there is no output matrix, so that the embeddings serve as one too."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.layers.values()) + self.input + self.output

    def plus(self, other: Tensors) -> Tensors:
        """Both together."""
        layers = {
            number: self.layers.get(number, 0) + other.layers.get(number, 0)
            for number in self.layers | other.layers
        }
        return Tensors(
            layers,
            self.input + other.input,
            self.output + other.output,
            self.embeddings + other.embeddings,
            self.tied and other.tied,
        )


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """One model, of one file or of all its parts.

    The numbers of its architecture are None where the file does not tell; one
    that may differ from layer to layer is a tuple then.
    """

    path: Path
    version: int
    architecture: str
    file_bytes: int
    parts: int
    tensors: Tensors
    block_count: int | None
    context_length: int | None
    embedding_length: int | None
    vocabulary: int | None
    head_count: int | tuple[int, ...] | None
    head_count_kv: int | tuple[int, ...] | None
    key_length: int | None
    value_length: int | None
    facts: dict[str, int | tuple[int, ...]] = field(repr=False)
    """Every further number of the architecture, by its key without the prefix."""

    def number(self, key: str) -> int | None:
        """The number under `key`; None: not told, or told for each layer."""
        found = self.facts.get(key)
        return found if isinstance(found, int) else None


@dataclass(frozen=True, slots=True)
class _Part:
    version: int
    size: int
    pairs: Pairs
    counts: dict[str, int]
    """Elements of the arrays that were passed over."""
    tensors: Tensors


def read_header(path: Path) -> GgufHeader:
    """The header of the model at `path`, its further parts included.

    Reads at most 64 MiB of each part; for a worker thread.

    Raises:
        GgufError: it is no sound GGUF.
        GgufUnsupported: it is of a version, or holds a type of tensor, that is
            not known here.
        OSError: it cannot be read.
    """
    first = _read_part(path)
    count = _number(path, first.pairs, "split.count", 65_535) or 1
    header = _header(path, first)
    if count == 1:
        return header
    for sibling in _siblings(path, first, count):
        part = _read_part(sibling)
        header = replace(
            header,
            tensors=header.tensors.plus(part.tensors),
            file_bytes=header.file_bytes + part.size,
            parts=header.parts + 1,
        )
    return header


def _siblings(path: Path, first: _Part, count: int) -> list[Path]:
    """The other parts, named as llama.cpp names and looks for them."""
    if count > PARTS_MAX:
        raise GgufError(f"{path}: split.count is {count}, more than {PARTS_MAX}")
    number = _number(path, first.pairs, "split.no", 65_535) or 0
    if number != 0:
        raise GgufError(
            f"{path}: it is part {number + 1} of {count}; name the first one,"
            f" -00001-of-{count:05}.gguf"
        )
    name = _PART.fullmatch(path.name)
    if name is None or int(name[2]) != count:
        raise GgufError(
            f"{path}: it is the first of {count} parts, and its name does not end in"
            f" -00001-of-{count:05}.gguf"
        )
    siblings = [
        path.with_name(f"{name[1]}-{part:05}-of-{count:05}.gguf") for part in range(2, count + 1)
    ]
    for sibling in siblings:
        if not sibling.is_file():
            raise GgufError(f"{path}: its part {sibling.name} is not there; put it beside it")
    return siblings


def _read_part(path: Path) -> _Part:
    # A pipe would keep the thread for ever, were it opened to be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise GgufError(f"{path}: it is not a regular file")
        return _parse(Cursor(descriptor, path, status.st_size))
    finally:
        os.close(descriptor)


def _parse(cursor: Cursor) -> _Part:
    if cursor.take(4, "the magic number") != MAGIC:
        raise GgufError(f"{cursor.path}: at offset 0: it does not begin with GGUF: no GGUF file")
    version = _version(cursor)
    tensors = _count(cursor, "tensors", TENSORS_MAX)
    pairs: Pairs = {}
    counts: dict[str, int] = {}
    for _ in range(_count(cursor, "pairs", PAIRS_MAX)):
        _read_pair(cursor, pairs, counts)
    sizes = _read_tensors(cursor, tensors, _alignment(cursor, pairs))
    return _Part(version, cursor.size, pairs, counts, sizes)


def _version(cursor: Cursor) -> int:
    version = cursor.u32("the version")
    if version in (2, 3):
        return version
    if version & 0xFFFF == 0 and version:
        raise cursor.error("it is big-endian; convert it for this machine")
    if version < 2:
        raise cursor.error(f"it is of version {version}; convert it to version 3")
    raise GgufUnsupported(f"{cursor.path}: at offset 4: version {version} is not known here")


def _count(cursor: Cursor, what: str, most: int) -> int:
    count = cursor.u64(f"the number of {what}")
    if count > most:
        raise cursor.error(f"it claims {count} {what}, more than {most}")
    return count


def _read_pair(
    cursor: Cursor,
    pairs: Pairs,
    counts: dict[str, int],
) -> None:
    key = cursor.text(KEY_BYTES_MAX, "a key")
    if key in pairs or key in counts:
        raise cursor.error(f"the key {key[:64]!r} is repeated")
    kind = cursor.u32("the type of a value")
    if kind == _ARRAY:
        kept = _read_array(cursor, key)
        if isinstance(kept, int):
            counts[key] = kept
        else:
            pairs[key] = kept
    elif kind == _STRING:
        if key == "general.architecture":
            pairs[key] = cursor.text(TEXT_BYTES_MAX, key)
        else:
            counts[key] = 0
            cursor.skip_text("a string")
    else:
        pairs[key] = _numbers(cursor, kind, 1)[0]


def _read_array(cursor: Cursor, key: str) -> int | array[int] | array[float]:
    """The numbers of an array of one for each layer; of any other, how many it has."""
    kind, count = _array_head(cursor)
    if kind in _NUMBERS and count <= LAYERS_MAX and key.endswith(_PER_LAYER):
        return _numbers(cursor, kind, count)
    if kind == _STRING:
        cursor.skip_texts(count, "an array")
    else:
        cursor.skip(count * array(_code(cursor, kind)).itemsize, "an array")
    return count


def _array_head(cursor: Cursor) -> tuple[int, int]:
    kind = cursor.u32("the type of an array")
    if kind == _ARRAY:
        raise cursor.error("an array holds arrays, which llama.cpp does not read either")
    count = cursor.u64("the length of an array")
    if count > ELEMENTS_MAX:
        raise cursor.error(f"an array claims {count} elements, more than {ELEMENTS_MAX}")
    return kind, count


def _numbers(cursor: Cursor, kind: int, count: int) -> array[int] | array[float]:
    found: array[int] | array[float] = array(_code(cursor, kind))
    found.frombytes(cursor.take(count * found.itemsize, "a value"))
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _code(cursor: Cursor, kind: int) -> str:
    if kind not in _NUMBERS:
        raise cursor.error(f"there is no type of values {kind}")
    return _NUMBERS[kind]


def _alignment(cursor: Cursor, pairs: Pairs) -> int:
    alignment = pairs.get("general.alignment", ALIGNMENT_DEFAULT)
    if not isinstance(alignment, int) or not 0 < alignment <= ALIGNMENT_MAX:
        raise cursor.error(f"general.alignment is {alignment}, not from 1 to {ALIGNMENT_MAX}")
    if alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {alignment}, which is no power of two")
    return alignment


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    offset: int
    size: int


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> Tensors:
    tensors = [_read_tensor(cursor, alignment) for _ in range(count)]
    if len({tensor.name for tensor in tensors}) < count:
        raise cursor.error("two tensors have one name")
    data = cursor.size - -(-cursor.at // alignment) * alignment
    for tensor in tensors:
        if tensor.offset + tensor.size > data:
            raise cursor.error(
                f"the file is cut off: tensor {tensor.name!r} ends {tensor.offset + tensor.size}"
                f" bytes into the data, which has {max(data, 0)}"
            )
    if sum(tensor.size for tensor in tensors) > max(data, 0):
        raise cursor.error("its tensors overlap: together they are larger than the data")
    return _by_place(cursor, tensors)


def _read_tensor(cursor: Cursor, alignment: int) -> _Tensor:
    name = cursor.text(NAME_BYTES_MAX, "the name of a tensor")
    dimensions = cursor.u32("the dimensions of a tensor")
    if not 1 <= dimensions <= DIMENSIONS_MAX:
        raise cursor.error(f"tensor {name!r} has {dimensions} dimensions, not 1 to 4")
    lengths = [cursor.u64("a dimension") for _ in range(dimensions)]
    kind = cursor.u32("the type of a tensor")
    offset = cursor.u64("the offset of a tensor")
    if offset % alignment:
        raise cursor.error(f"tensor {name!r} is at {offset}, which is no multiple of {alignment}")
    return _Tensor(name, offset, _tensor_bytes(cursor, name, kind, lengths))


def _tensor_bytes(cursor: Cursor, name: str, kind: int, lengths: list[int]) -> int:
    elements = 1
    for length in lengths:
        if length == 0:
            raise cursor.error(f"tensor {name!r} has a dimension of 0")
        elements *= length
        if elements > SIZE_MAX:
            raise cursor.error(f"tensor {name!r} has more than {SIZE_MAX} elements")
    known = GGML_TYPES.get(kind)
    if known is None:
        raise GgufUnsupported(
            f"{cursor.path}: at offset {cursor.at}: tensor {name!r} is of type {kind},"
            " which is not known here"
        )
    if lengths[0] % known.elements:
        raise cursor.error(
            f"tensor {name!r} has rows of {lengths[0]}, which is no multiple of {known.elements}"
        )
    return elements // known.elements * known.size


def _by_place(cursor: Cursor, tensors: list[_Tensor]) -> Tensors:
    layers: defaultdict[int, int] = defaultdict(int)
    inputs = outputs = embeddings = 0
    for tensor in tensors:
        layer = _LAYER.fullmatch(tensor.name)
        if layer is not None:
            if int(layer[1]) >= LAYERS_MAX:
                raise cursor.error(f"tensor {tensor.name!r} is beyond layer {LAYERS_MAX - 1}")
            layers[int(layer[1])] += tensor.size
        elif tensor.name.startswith(_INPUT):
            inputs += tensor.size
            embeddings += tensor.size if tensor.name == _EMBEDDINGS else 0
        else:
            outputs += tensor.size
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    return Tensors(dict(layers), inputs, outputs, embeddings, tied)


def _header(path: Path, part: _Part) -> GgufHeader:
    architecture = part.pairs.get("general.architecture")
    if not isinstance(architecture, str):
        raise GgufError(f"{path}: it does not name its architecture (general.architecture)")
    facts = _facts(architecture, part.pairs)

    def number(key: str, most: int) -> int | None:
        return _number(path, part.pairs, f"{architecture}.{key}", most)

    return GgufHeader(
        path=path,
        version=part.version,
        architecture=architecture,
        file_bytes=part.size,
        parts=1,
        tensors=part.tensors,
        block_count=number("block_count", LAYERS_MAX),
        context_length=number("context_length", 2**31 - 1),
        embedding_length=number("embedding_length", 2**20),
        vocabulary=number("vocab_size", 2**24) or part.counts.get("tokenizer.ggml.tokens"),
        head_count=_heads(path, facts, "attention.head_count"),
        head_count_kv=_heads(path, facts, "attention.head_count_kv"),
        key_length=number("attention.key_length", 2**20),
        value_length=number("attention.value_length", 2**20),
        facts=facts,
    )


def _facts(architecture: str, pairs: Pairs) -> dict[str, int | tuple[int, ...]]:
    prefix = f"{architecture}."
    facts: dict[str, int | tuple[int, ...]] = {}
    for key, value in pairs.items():
        name = key.removeprefix(prefix)
        if name == key:
            continue
        if isinstance(value, int):
            facts[name] = value
        elif isinstance(value, array) and value.typecode not in "fd":
            facts[name] = tuple(int(number) for number in value)
    return facts


def _heads(
    path: Path, facts: dict[str, int | tuple[int, ...]], key: str
) -> int | tuple[int, ...] | None:
    found = facts.get(key)
    if found is None:
        return None
    for number in (found,) if isinstance(found, int) else found:
        if not 0 <= number <= 65_536:
            raise GgufError(f"{path}: {key} is {number}, not from 0 to 65536")
    return found


def _number(
    path: Path,
    pairs: Pairs,
    key: str,
    most: int,
) -> int | None:
    value = pairs.get(key)
    if value is None or isinstance(value, array):
        return None
    if not isinstance(value, int) or not 0 <= value <= most:
        raise GgufError(f"{path}: {key} is {value}, not a number from 0 to {most}")
    return value
