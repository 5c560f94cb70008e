"""Reading forward through the header of a GGUF file, and no further than its bounds.

Every length in a header is a claim of whoever wrote the file.  Here each one is
compared with what is left of the file and with a bound before anything is read
or passed over.  The file is read by `pread`, never mapped: one that shrinks
meanwhile is an error and not a SIGBUS.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

HEADER_BYTES_MAX = 64 * 1024 * 1024
STRING_BYTES_MAX = 8 * 1024 * 1024
STRINGS_MAX = 4 * 1024 * 1024
"""In all arrays of one header: each is stepped over by itself."""
WINDOW_BYTES = 256 * 1024

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class GgufError(ValueError):
    """A file that is no sound GGUF; the message names the file and the offset."""


class GgufUnsupported(GgufError):
    """A GGUF that may be sound, but of a kind this version cannot read."""


class Cursor:
    """A place in the header of an open file of `size` bytes."""

    def __init__(self, descriptor: int, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.at = 0
        self._descriptor = descriptor
        self._limit = min(size, HEADER_BYTES_MAX)
        self._window = b""
        self._window_at = 0
        self._strings = 0

    def error(self, what: str) -> GgufError:
        """The error `what` at this place."""
        return GgufError(f"{self.path}: at offset {self.at}: {what}")

    def left(self) -> int:
        """Bytes of header that may still follow."""
        return self._limit - self.at

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes; raises `GgufError` where they are not there."""
        self._need(count, what)
        begin = self.at - self._window_at
        if begin < 0 or begin + count > len(self._window):
            self._fill(count, what)
            begin = 0
        self.at += count
        return self._window[begin : begin + count]

    def skip(self, count: int, what: str) -> None:
        """Pass over the next `count` bytes without reading them."""
        self._need(count, what)
        self.at += count

    def u32(self, what: str) -> int:
        """The next unsigned number of 4 bytes."""
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        """The next unsigned number of 8 bytes."""
        return int(_U64.unpack(self.take(8, what))[0])

    def text(self, bytes_max: int, what: str) -> str:
        """The next string, of at most `bytes_max` bytes."""
        length = self._length(bytes_max, what)
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8") from error

    def skip_text(self, what: str) -> None:
        """Pass over the next string."""
        self.skip(self._length(STRING_BYTES_MAX, what), what)

    def skip_texts(self, count: int, what: str) -> None:
        """Pass over `count` strings, none of which is kept: a vocabulary has 200,000."""
        if 8 * count > self.left():
            raise self.error(f"{what} claims {count} strings, more than what is left can hold")
        self._strings += count
        if self._strings > STRINGS_MAX:
            raise self.error(f"more than {STRINGS_MAX} strings in arrays")
        for _ in range(count):
            begin = self.at - self._window_at
            if begin < 0 or begin + 8 > len(self._window):
                self._need(8, what)
                self._fill(8, what)
                begin = 0
            length = _U64.unpack_from(self._window, begin)[0]
            self.at += 8
            if length > STRING_BYTES_MAX or length > self._limit - self.at:
                self._check_length(length, STRING_BYTES_MAX, what)
                self._need(length, what)
            self.at += length

    def _length(self, bytes_max: int, what: str) -> int:
        length = self.u64(f"the length of {what}")
        self._check_length(length, bytes_max, what)
        return length

    def _check_length(self, length: int, bytes_max: int, what: str) -> None:
        if length > bytes_max:
            raise self.error(f"{what} claims {length} bytes, more than {bytes_max}")

    def _need(self, count: int, what: str) -> None:
        if count <= self.left():
            return
        if count <= self.size - self.at:
            raise self.error(f"the header is larger than {HEADER_BYTES_MAX} bytes")
        raise self.error(
            f"the file is cut off: {what} needs {count} bytes and {self.size - self.at} are left"
        )

    def _fill(self, count: int, what: str) -> None:
        want = min(max(count, WINDOW_BYTES), self.left())
        self._window = os.pread(self._descriptor, want, self.at)
        self._window_at = self.at
        if len(self._window) < count:
            raise self.error(f"the file shrank while {what} was read")
