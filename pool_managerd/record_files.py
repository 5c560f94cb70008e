"""Small files that a start of this daemon leaves for the next one."""

from __future__ import annotations

import os
from pathlib import Path


def file_stem(replica_id: str) -> str:
    """A replica's id as the name of a file: with the slash as `@`, which no id can hold."""
    return replica_id.replace("/", "@")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of the owner's alone and rename it into place; short file I/O.

    Makes the directory, 0700, where it is not there.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
        file.write(content)
    fresh.rename(path)
