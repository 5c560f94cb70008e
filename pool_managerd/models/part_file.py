"""A download on disk: it grows, is hashed while it does, and outlives a kill.

    KEY.part      the bytes so far; KEY is a digest of the ref, never a remote name
    KEY.json      what they are a part of: the server's ETag and the whole size
    KEY.mismatch  a whole file that has another digest than asked for; never served

Every call blocks and belongs in a worker thread.  Files are opened beneath the
directory's descriptor and never through a link.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat

import msgspec

HASH_STEP_BYTES = 16 * 1024 * 1024
DESCRIPTION_BYTES_MAX = 4096


class Description(msgspec.Struct):
    """What a part is a part of; None: the server did not say."""

    etag: str | None = None
    total: int | None = None
    digest: str | None = None


class PartFile:
    """One download; `rehash` must have come to its end before anything is appended."""

    def __init__(self, directory: int, key: str) -> None:
        """Open or make `KEY.part` in the directory of this descriptor.

        Raises:
            OSError: it is a link or no file, or the disk refuses.
        """
        self.key = key
        self._directory = directory
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.open(f"{key}.part", flags, 0o600, dir_fd=directory)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(self._descriptor)
            raise OSError(f"{key}.part is no plain file of its own; remove it")
        self.size = found.st_size
        self.description = _described(directory, key)
        self._hash = hashlib.sha256()
        self._hashed = 0

    @property
    def digest(self) -> str:
        """The sha256 of the bytes so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def rehash(self) -> bool:
        """Hash the next bytes that an earlier process wrote; whether there are more."""
        data = os.pread(self._descriptor, HASH_STEP_BYTES, self._hashed)
        self._hash.update(data)
        self._hashed += len(data)
        if not data:
            self.size = self._hashed
        return bool(data) and self._hashed < self.size

    def append(self, data: bytes) -> None:
        """Write and hash `data`; raises OSError, after which the part has not grown."""
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], self.size + written)
        self._hash.update(data)
        self.size += len(data)
        self._hashed = self.size

    def restart(self) -> None:
        """Begin again from nothing."""
        os.ftruncate(self._descriptor, 0)
        self.size = self._hashed = 0
        self._hash = hashlib.sha256()
        self.describe(Description())

    def describe(self, description: Description) -> None:
        """Write down what this is a part of."""
        self.description = description
        fresh = f"{self.key}.json.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(fresh, flags, 0o600, dir_fd=self._directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(description))
        os.replace(
            fresh, f"{self.key}.json", src_dir_fd=self._directory, dst_dir_fd=self._directory
        )

    def sync(self) -> None:
        """Return once the bytes are on the disk."""
        os.fsync(self._descriptor)

    def set_aside(self) -> str:
        """Keep the whole file as a mismatch; its name."""
        self.sync()
        self.describe(msgspec.structs.replace(self.description, digest=self.digest))
        name = f"{self.key}.mismatch"
        os.replace(f"{self.key}.part", name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        return name

    def close(self) -> None:
        """Close the file; what it holds stays, and one that holds nothing goes."""
        os.close(self._descriptor)
        if not self.size:
            for name in (f"{self.key}.part", f"{self.key}.json"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._directory)


def mismatch(directory: int, key: str) -> str | None:
    """The digest of the file that was set aside for `key`; None where there is none."""
    try:
        os.stat(f"{key}.mismatch", dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return _described(directory, key).digest or "an unknown digest"


def take_back(directory: int, key: str) -> None:
    """Make the file that was set aside a part again."""
    os.replace(f"{key}.mismatch", f"{key}.part", src_dir_fd=directory, dst_dir_fd=directory)


def _described(directory: int, key: str) -> Description:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        with os.fdopen(os.open(f"{key}.json", flags, dir_fd=directory), "rb") as file:
            return msgspec.json.decode(file.read(DESCRIPTION_BYTES_MAX), type=Description)
    except (FileNotFoundError, msgspec.DecodeError):
        return Description()
