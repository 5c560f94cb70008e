"""The models that were fetched: where they lie, which is in use, which goes first.

    DIR/lock                     held for as long as a process uses the directory
    DIR/index.json               what there is, by digest; who holds what; which ref is what
    DIR/parts/KEY.part           downloads under way (`part_file`)
    DIR/blobs/HEX/model.gguf     a model, in a directory named after its sha256

A split model lies in the directory of its first file.  A directory of blobs is
renamed into place when all of it is on the disk, so one that is there is whole.

A model is in use while a replica holds it.  Holders are in the index and so
outlive a crash: the engine of a killed manager goes on reading its file.  Room is
made by removing idle downloads, then models nobody holds, longest unused first.

Every call blocks and belongs in a worker thread, one at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from contracts.config import Downloads
from contracts.ids import DIGEST_PATTERN
from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.part_file import PartFile, mismatch, take_back
from pool_managerd.models.remote import failed

INDEX_BYTES_MAX = 16 * 1024 * 1024
REFS_MAX = 4096
LINK_OR_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC

_DIGEST = re.compile(DIGEST_PATTERN)
FreeBytes = Callable[[int], int]
"""The bytes that are free on the disk of a descriptor."""


class Entry(msgspec.Struct):
    """One model of the cache; `last_used` counts uses of the cache, it is no time."""

    ref: str
    bytes: int
    files: dict[str, int]
    etag: str | None
    last_used: int


class Index(msgspec.Struct):
    """What is in the cache: entries by digest, digests by source key and by holder."""

    uses: int = 0
    entries: dict[str, Entry] = {}
    sources: dict[str, str] = {}
    holders: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Finished:
    """A part that is whole and has the digest it should have."""

    key: str
    digest: str
    size: int
    etag: str | None


def digest_directory(digest: str) -> str:
    """The one name that a digest has in a path: its 64 hex digits.

    Raises:
        LaunchRefused: it is no digest (CVE-2024-37032: one that was not checked
            here wrote outside the store).
    """
    if not _DIGEST.fullmatch(digest):
        raise LaunchRefused(
            FailureReason.MODEL_INVALID,
            f"{digest[:100]!r} is no digest; it is `sha256:` and 64 lower-case hex digits",
        )
    return digest.removeprefix("sha256:")


def free_bytes(descriptor: int) -> int:
    """What an ordinary user may still write."""
    found = os.fstatvfs(descriptor)
    return found.f_bavail * found.f_frsize


class ModelCache:
    """One directory of models, open and locked."""

    def __init__(
        self,
        root: Path,
        downloads: Downloads,
        holders: Collection[str] | None = None,
        free: FreeBytes = free_bytes,
    ) -> None:
        """Open the directory, made where it is missing, and clear what was left half-made.

        Args:
            holders: the only ones whose holds from an earlier start still count; None: all.

        Raises:
            LaunchRefused: another process has it, or it cannot be used.
        """
        self._root = root
        self._floor = downloads.disk_floor_bytes
        self._most = downloads.max_cache_bytes
        self._free = free
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory = _own_directory(root)
            self._lock()
            self._parts, self._blobs = self._below("parts"), self._below("blobs")
            self._index = self._read()
            self._clear_half_made()
        except OSError as error:
            raise failed(f"the model cache {root} cannot be used: {error}") from error
        if holders is not None:
            kept = self._index.holders.items()
            self._index.holders = {who: what for who, what in kept if who in holders}

    def close(self) -> None:
        """Let another process have it."""
        for descriptor in (self._parts, self._blobs, self._directory, self._locked):
            os.close(descriptor)

    def find(self, key: str, digest: str | None, holder: str) -> Path | None:
        """The model of this digest, else the one this source was; it is held from then on."""
        wanted = digest or self._index.sources.get(key)
        entry = None if wanted is None else self._index.entries.get(wanted)
        if wanted is None or entry is None:
            return None
        if not self._whole(wanted, entry):
            self._remove(wanted)
            return None
        self._link(key, wanted)
        self._use(wanted, entry, holder)
        self._write()
        return self._path(wanted, entry)

    def part(self, key: str, digest: str | None) -> PartFile:
        """The download of `key`, begun or to be begun.

        Raises:
            LaunchRefused: it was fetched whole before, and had another digest.
            OSError: the disk refuses.
        """
        found = mismatch(self._parts, key)
        if found is not None:
            if found != digest:
                raise LaunchRefused(
                    FailureReason.MODEL_INVALID,
                    f"what was fetched has {found}, and {digest or 'no digest'} is asked for;"
                    f" it lies in {self._root / 'parts' / key}.mismatch: change the digest to"
                    " serve it, or remove that file to fetch it again",
                )
            take_back(self._parts, key)
        return PartFile(self._parts, key)

    def make_room(self, needed: int, active: Collection[str], in_use: Collection[Path]) -> None:
        """Remove what nobody uses until `needed` more bytes fit.

        Args:
            active: the keys of the downloads under way.
            in_use: models that are in use besides those that are held.

        Raises:
            LaunchRefused: they do not fit, with the figures.
        """
        spare = self._idle_parts(active) + self._idle_models(in_use)
        while (short := self._shortage(needed, active)) is not None:
            if not spare:
                raise failed(short)
            spare.pop(0)()
        self._write()

    def admit(
        self, key: str, ref: str, names: Sequence[str], parts: Sequence[Finished], holder: str
    ) -> Path:
        """Put finished parts in place as one model, held by `holder`; its first file."""
        digest = parts[0].digest
        directory = digest_directory(digest)
        fresh = f".{directory}.new"
        self._remove_directory(fresh)
        self._remove(digest)
        os.mkdir(fresh, 0o700, dir_fd=self._blobs)
        descriptor = os.open(fresh, LINK_OR_FILE | os.O_DIRECTORY, dir_fd=self._blobs)
        try:
            for name, part in zip(names, parts, strict=True):
                os.rename(f"{part.key}.part", name, src_dir_fd=self._parts, dst_dir_fd=descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(fresh, directory, src_dir_fd=self._blobs, dst_dir_fd=self._blobs)
        os.fsync(self._blobs)
        for part in parts:
            _unlink(f"{part.key}.json", self._parts)
        files = {name: part.size for name, part in zip(names, parts, strict=True)}
        entry = Entry(ref, sum(files.values()), files, parts[0].etag, 0)
        self._index.entries[digest] = entry
        self._link(key, digest)
        self._use(digest, entry, holder)
        self._write()
        return self._path(digest, entry)

    @property
    def used_bytes(self) -> int:
        """What the models take."""
        return sum(entry.bytes for entry in self._index.entries.values())

    def _path(self, digest: str, entry: Entry) -> Path:
        return self._root / "blobs" / digest_directory(digest) / next(iter(entry.files))

    def _link(self, key: str, digest: str) -> None:
        """Remember what a source is; the oldest of too many are forgotten."""
        sources = self._index.sources
        sources.pop(key, None)
        sources[key] = digest
        while len(sources) > REFS_MAX:
            del sources[next(iter(sources))]

    def _use(self, digest: str, entry: Entry, holder: str) -> None:
        self._index.uses += 1
        entry.last_used = self._index.uses
        if holder:
            self._index.holders[holder] = digest

    def _shortage(self, needed: int, active: Collection[str]) -> str | None:
        """Why `needed` bytes do not fit now, in figures."""
        if self._most is not None:
            growing = sum(self._part_bytes(key) for key in active)
            total = self.used_bytes + growing + needed
            if total > self._most:
                return (
                    f"{needed} more bytes would make {total} in the model cache, and"
                    f" policy.downloads.max_cache_bytes is {self._most}; what is left is in use:"
                    " raise the bound, or serve fewer models"
                )
        free = self._free(self._directory)
        if free - needed < self._floor:
            return (
                f"{needed} more bytes would leave {max(0, free - needed)} of the {free} that are"
                f" free on the disk of {self._root}, and policy.downloads.disk_floor_bytes is"
                f" {self._floor}; no model that is not in use is left to remove: free some space,"
                " or set another policy.downloads.cache_dir"
            )
        return None

    def _idle_parts(self, active: Collection[str]) -> list[Callable[[], None]]:
        """Removals of downloads that are not under way, oldest first; a mismatch stays."""
        found = []
        for name in os.listdir(self._parts):  # noqa: PTH208  (by descriptor)
            key, _, ending = name.partition(".")
            if ending == "part" and key not in active:
                touched = os.stat(name, dir_fd=self._parts, follow_symlinks=False).st_mtime_ns
                found.append((touched, key))
        return [self._removal_of_part(key) for _, key in sorted(found)]

    def _removal_of_part(self, key: str) -> Callable[[], None]:
        def remove() -> None:
            _unlink(f"{key}.part", self._parts)
            _unlink(f"{key}.json", self._parts)

        return remove

    def _idle_models(self, in_use: Collection[Path]) -> list[Callable[[], None]]:
        """Removals of models that nobody uses, longest unused first."""
        used = {path.parent.name for path in in_use}
        used |= {digest_directory(digest) for digest in self._index.holders.values()}
        idle = sorted(
            (entry.last_used, digest)
            for digest, entry in self._index.entries.items()
            if digest_directory(digest) not in used
        )

        def removal(digest: str) -> Callable[[], None]:
            return lambda: self._remove(digest)

        return [removal(digest) for _, digest in idle]

    def _part_bytes(self, key: str) -> int:
        try:
            return os.stat(f"{key}.part", dir_fd=self._parts, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def _whole(self, digest: str, entry: Entry) -> bool:
        """Whether every file of a model is there, plain and of its size."""
        try:
            descriptor = os.open(
                digest_directory(digest), LINK_OR_FILE | os.O_DIRECTORY, dir_fd=self._blobs
            )
        except OSError:
            return False
        try:
            found = [
                (os.stat(name, dir_fd=descriptor, follow_symlinks=False), size)
                for name, size in entry.files.items()
            ]
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return all(stat.S_ISREG(seen.st_mode) and seen.st_size == size for seen, size in found)

    def _remove(self, digest: str) -> None:
        """Take a model away: from the index first, so that a crash leaves no empty promise."""
        if self._index.entries.pop(digest, None) is not None:
            self._write()
        self._remove_directory(digest_directory(digest))

    def _remove_directory(self, name: str) -> None:
        try:
            shutil.rmtree(name, dir_fd=self._blobs)
        except FileNotFoundError:
            return
        except OSError:
            # A link in its place; the link goes, what it points to stays.
            _unlink(name, self._blobs)

    def _clear_half_made(self) -> None:
        for name in os.listdir(self._blobs):  # noqa: PTH208  (by descriptor)
            if name.endswith(".new"):
                self._remove_directory(name)
            elif _DIGEST.fullmatch(f"sha256:{name}"):
                self._adopt(name)
        for name in os.listdir(self._parts):  # noqa: PTH208
            if name.endswith(".new"):
                _unlink(name, self._parts)

    def _adopt(self, name: str) -> None:
        """Take a whole model into the index that a crash, or a lost index, left out of it."""
        if f"sha256:{name}" in self._index.entries:
            return
        descriptor = os.open(name, LINK_OR_FILE | os.O_DIRECTORY, dir_fd=self._blobs)
        try:
            files = {
                file: os.stat(file, dir_fd=descriptor, follow_symlinks=False).st_size
                for file in sorted(os.listdir(descriptor))  # noqa: PTH208  (by descriptor)
            }
        finally:
            os.close(descriptor)
        if files:
            entry = Entry("", sum(files.values()), files, None, 0)
            self._index.entries[f"sha256:{name}"] = entry

    def _lock(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._locked = os.open("lock", flags, 0o600, dir_fd=self._directory)
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._locked)
            os.close(self._directory)
            raise failed(
                f"another pool_managerd uses the model cache {self._root}; stop that one, or set"
                " another policy.downloads.cache_dir"
            ) from None

    def _below(self, name: str) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self._directory)
        return os.open(name, LINK_OR_FILE | os.O_DIRECTORY, dir_fd=self._directory)

    def _read(self) -> Index:
        """The index; one that cannot be read is begun anew from the models that are there."""
        try:
            descriptor = os.open("index.json", LINK_OR_FILE, dir_fd=self._directory)
            with os.fdopen(descriptor, "rb") as file:
                index = msgspec.json.decode(file.read(INDEX_BYTES_MAX), type=Index)
        except (FileNotFoundError, msgspec.DecodeError):
            return Index()
        digests = {*index.entries, *index.sources.values(), *index.holders.values()}
        return index if all(map(_DIGEST.fullmatch, digests)) else Index()

    def _write(self) -> None:
        fresh = "index.json.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(fresh, flags, 0o600, dir_fd=self._directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(self._index))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, "index.json", src_dir_fd=self._directory, dst_dir_fd=self._directory)


def _own_directory(path: Path) -> int:
    descriptor = os.open(path, LINK_OR_FILE | os.O_DIRECTORY)
    found = os.fstat(descriptor)
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(descriptor)
        raise OSError(f"it must be yours alone: chmod 700 {path}")
    return descriptor


def _unlink(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
