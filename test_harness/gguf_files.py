"""GGUF files made by hand: wrong on purpose, or large and empty."""

from __future__ import annotations

import os
import struct
from pathlib import Path

U32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    """A string of ASCII."""
    return struct.pack("<Q", len(value)) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    """A key with its value, whose bytes are given."""
    return text(key) + struct.pack("<I", kind) + value


def numbers(architecture: str = "llama", /, **values: int) -> tuple[bytes, ...]:
    """Pairs of 4-byte numbers; `__` stands for a dot."""
    return tuple(
        pair(f"{architecture}.{key.replace('__', '.')}", U32, struct.pack("<I", value))
        for key, value in values.items()
    )


def tensor(name: str, *dimensions: int, kind: int = 0, offset: int = 0) -> bytes:
    """An entry of the table of tensors."""
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


def file_of(
    root: Path,
    *pairs: bytes,
    tensors: tuple[bytes, ...] = (),
    data: int = 0,
    version: int = 3,
    name: str = "made.gguf",
    architecture: str = "llama",
) -> Path:
    """A file under `root` with `data` bytes of zeros as its data, which take no disk."""
    named = pair("general.architecture", STRING, text(architecture))
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(pairs) + 1)
    head += named + b"".join(pairs) + b"".join(tensors)
    path = root / name
    path.write_bytes(head)
    os.truncate(path, len(head) + -len(head) % 32 + data)
    return path
