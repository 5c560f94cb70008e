"""The sizes of a model that is a directory of safetensors files, from their headers.

A file begins with the length of its header, 8 bytes little-endian, then the header
as JSON: for each tensor its type, its shape and where its data begins and ends
(https://huggingface.co/docs/safetensors).  `config.json` beside them names the kind.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

HEADER_BYTES_MAX = 16 * 1024 * 1024
CONFIG_BYTES_MAX = 1024 * 1024
FILES_MAX = 256
BRACKETS_MAX = 262_144
VALUES_MAX = 1024 * 1024
"""Of one file of JSON: each takes many times more memory than the byte it may be written in."""


class SafetensorsError(ValueError):
    """No sound safetensors model; the message names the file."""


def model_bytes(directory: Path) -> int:
    """Bytes of all tensors of the model in `directory`; for a worker thread.

    Raises:
        SafetensorsError: it is no sound model.
        OSError: it cannot be read.
    """
    config = _json(directory / "config.json", _read(directory / "config.json", 0, CONFIG_BYTES_MAX))
    if not isinstance(config.get("architectures") or config.get("model_type"), (str, list)):
        raise SafetensorsError(f"{directory / 'config.json'}: it names no architecture")
    files = sorted(directory.glob("*.safetensors"))
    # Some models come twice: in one piece for their maker's program, and in the usual parts.
    files = [file for file in files if not file.name.startswith("consolidated")] or files
    if not 0 < len(files) <= FILES_MAX:
        raise SafetensorsError(
            f"{directory}: {len(files)} files *.safetensors, not from 1 to {FILES_MAX}"
        )
    return sum(_tensor_bytes(file) for file in files)


def _tensor_bytes(path: Path) -> int:
    size = path.stat().st_size
    length = int.from_bytes(_read(path, 0, 8, exactly=True), "little")
    if length > min(HEADER_BYTES_MAX, size - 8):
        raise SafetensorsError(
            f"{path}: at offset 0: the header claims {length} bytes; the file has {size},"
            f" and {HEADER_BYTES_MAX} are allowed"
        )
    header = _json(path, _read(path, 8, length, exactly=True))
    header.pop("__metadata__", None)
    data, total = size - 8 - length, 0
    for name, tensor in header.items():
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        match offsets:
            case [int(begin), int(end)] if 0 <= begin <= end and not isinstance(end, bool):
                if end > data:
                    raise SafetensorsError(
                        f"{path}: the file is cut off: tensor {name[:64]!r} ends {end} bytes into"
                        f" the data, which has {data}"
                    )
                total += end - begin
            case _:
                raise SafetensorsError(f"{path}: tensor {name[:64]!r} does not say where it is")
    if total > data:
        raise SafetensorsError(f"{path}: its tensors overlap")
    return total


def _json(path: Path, content: bytes) -> dict[str, Any]:
    brackets = content.count(b"[") + content.count(b"{")
    if brackets > BRACKETS_MAX or content.count(b",") >= VALUES_MAX:
        raise SafetensorsError(
            f"{path}: its JSON has more than {BRACKETS_MAX} brackets or {VALUES_MAX} values"
        )
    try:
        found = json.loads(content, object_pairs_hook=_without_repeats)
    except _Repeated as error:
        raise SafetensorsError(f"{path}: the key {str(error)[:64]!r} is repeated") from error
    except (ValueError, RecursionError) as error:
        raise SafetensorsError(f"{path}: it holds no JSON: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise SafetensorsError(f"{path}: it holds no JSON object")
    return found


class _Repeated(Exception):
    """A key that is in an object twice."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Repeated(key)
            seen.add(key)
    return found


def _read(path: Path, at: int, count: int, *, exactly: bool = False) -> bytes:
    """At most `count` bytes; of a file that is whole where not `exactly`."""
    # A pipe would keep the thread for ever, were it opened to be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SafetensorsError(f"{path}: it is not a regular file")
        if not exactly and status.st_size > count:
            raise SafetensorsError(f"{path}: it is larger than {count} bytes")
        content = os.pread(descriptor, count, at)
    finally:
        os.close(descriptor)
    if exactly and len(content) < count:
        raise SafetensorsError(f"{path}: at offset {at}: the file is cut off")
    return content
