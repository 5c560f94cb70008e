"""The files of a model that is a directory, and the digest of all of them together.

The digest is the sha256 of one line for each file, in the order of the UTF-8 bytes of
their paths:

    SHA256 SIZE PATH\\n

the file's own sha256 as 64 hex digits, its bytes as a decimal number, its path from the
directory with `/` between its parts.  Names that begin with a dot are left out, with
what is below them: tools keep their notes there and no engine reads them.  So is
`__pycache__`, which an engine writes itself.  A link to a file counts as that file where
it leads to one of the same directory, and is refused otherwise, as is whatever is neither
file nor directory: `find -L DIR -type f` names the same files, and whoever has them can
compute the digest with `sha256sum` alone.

A model that was split into several files has a digest of the same kind, over the files
`model-00001-of-0000N.gguf` and so on, whatever stands in place of `model`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pool_managerd.models.refs import RefInvalid, split_names

COMPILED = "__pycache__"
"""Where Python keeps what it compiled of a model's own code, from its first start on."""
ENTRIES_MAX = 10_000
"""Files and directories below a model's directory."""


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of a tree: its path from the directory, and where it really lies."""

    name: str
    path: Path


def files_of(directory: Path) -> list[TreeFile]:
    """Every file that counts, in order.

    Raises:
        OSError: the directory cannot be read, holds what cannot count, or too much.
    """
    root = directory.resolve(strict=True)
    found = []
    for count, entry in enumerate(_below(root), start=1):
        if count > ENTRIES_MAX:
            raise OSError(f"{directory}: it holds more than {ENTRIES_MAX} files and directories")
        if not entry.is_dir(follow_symlinks=False):
            found.append(_file(root, Path(entry.path)))
    return sorted(found, key=lambda file: os.fsencode(file.name))


def parts_of(model: Path) -> list[TreeFile]:
    """The files of a split model whose first one is `model`; [] where it is whole.

    They go by the names that the cache gives them, so that equal models are equal
    wherever they lie.
    """
    try:
        names = split_names(model.name)
    except RefInvalid:
        return []
    if len(names) == 1:
        return []
    common = split_names(f"model-00001-of-{len(names):05}.gguf")
    return [TreeFile(one, model.with_name(name)) for one, name in zip(common, names, strict=True)]


def tree_digest(files: Iterable[TreeFile], hash_of: Callable[[BinaryIO], str]) -> str:
    """The sha256 of the tree; `hash_of` reads a file to its end and gives its hex digits."""
    tree = hashlib.sha256()
    for file in files:
        with _opened(file.path) as content:
            size = os.fstat(content.fileno()).st_size
            tree.update(f"{hash_of(content)} {size} {file.name}\n".encode())
    return tree.hexdigest()


def _below(root: Path) -> Iterator[os.DirEntry[str]]:
    """Every entry of a tree, in any order; a link to a directory is not entered."""
    waiting = [os.fspath(root)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == COMPILED:
                    continue
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _file(root: Path, path: Path) -> TreeFile:
    name = path.relative_to(root).as_posix()
    if not name.isprintable():
        raise OSError(f"{root}: the name {name!r} is not printable")
    real = Path(os.path.realpath(path, strict=True))
    if not real.is_relative_to(root):
        raise OSError(f"{path} leads out of its directory; put the file itself there (`cp -L`)")
    if not real.is_file():
        raise OSError(f"{path} is not a regular file")
    return TreeFile(name, real)


def _opened(path: Path) -> BinaryIO:
    """The file; a pipe that took its place is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")
