"""The API token: a secret that never shows itself, and where it comes from."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path

TOKEN_BYTES = 32
TOKEN_FILE_BYTES_MAX = 4096
TOKEN_CHARACTERS_MAX = 512
EXPOSED_TOKEN_CHARACTERS_MIN = 16

_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")


class TokenError(Exception):
    """The token cannot be used; one line with the remedy."""


class Secret:
    """A text whose repr, str and format are redacted."""

    __slots__ = ("__digest", "__text")

    def __init__(self, text: str) -> None:
        self.__text = text
        self.__digest = hashlib.sha256(text.encode()).digest()

    def reveal(self) -> str:
        """The text itself; for an Authorization header or a child's environment."""
        return self.__text

    def matches(self, candidate: bytes) -> bool:
        """Whether `candidate` is this secret, in time that tells nothing of it."""
        return hmac.compare_digest(hashlib.sha256(candidate).digest(), self.__digest)

    def __repr__(self) -> str:
        return "Secret('[redacted]')"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


def checked_token(text: str, source: str) -> Secret:
    """`text` as the token.

    Raises:
        TokenError: it is empty, longer than 512 characters, or holds a space, a
            control character or anything that is not ASCII.
    """
    if not _TOKEN.fullmatch(text):
        raise TokenError(
            f"{source}: a token is 1 to {TOKEN_CHARACTERS_MAX} printable ASCII characters"
            " without spaces"
        )
    return Secret(text)


def read_token_file(path: Path) -> Secret:
    """The token in `path`, its final newline aside.

    Raises:
        TokenError: missing, not a regular file, readable by others, or no token.
    """
    try:
        # O_NONBLOCK: a FIFO in its place must be refused, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise TokenError(f"{path}: the token file is not a regular file")
            if found.st_mode & 0o077:
                raise TokenError(f"{path}: others can read the token; chmod 600 {path}")
            data = file.read(TOKEN_FILE_BYTES_MAX)
    except OSError as error:
        raise TokenError(f"{path}: the token file cannot be read: {error.strerror}") from error
    return checked_token(data.decode("ascii", "replace").rstrip("\r\n"), str(path))


def made_token(path: Path) -> Secret:
    """The token in `path`, made there first where there is none.

    Two daemons may start at once: each writes a file of its own and links it to
    `path`, which succeeds for exactly one; both then read the same token.

    Raises:
        TokenError: as `read_token_file`, or the file cannot be written.
    """
    if not path.exists():
        fresh = path.with_name(f".token.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            _write_private(fresh, secrets.token_urlsafe(TOKEN_BYTES))
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink(missing_ok=True)
        except OSError as error:
            raise TokenError(f"{path}: the token cannot be written: {error.strerror}") from error
    return read_token_file(path)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
