"""Proof files: written whole or not at all, read a line at a time within bounds."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from contracts.proofs import (
    FORMAT_VERSION,
    LINE_BYTES_MAX,
    LINES_MAX,
    PROOF_BYTES_MAX,
    Bar,
    Control,
    Header,
    Record,
    Run,
    Seal,
    Verdict,
)

Evidence = Run | Control | Bar

_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


class BadProof(Exception):
    """The file is no proof as it was sealed; says what is wrong, and in which line."""


class ProofReader:
    """One proof, read once: the header, then the evidence, then `verdict` and `sha256`.

    The evidence must be read to its end: only then is the seal looked at.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._bytes = self._lines = 0
        self._digest = hashlib.sha256()
        self.verdict: Verdict | None = None
        """What the maker claims; there once the evidence was read."""
        self.sha256 = ""
        """Of the whole file, seal included; there once the evidence was read."""
        first = self._record(self._line())
        if not isinstance(first, Header):
            raise BadProof(f"line 1 is a {first.kind}, not the header of a proof")
        if first.format_version != FORMAT_VERSION:
            raise BadProof(
                f"it is of format {first.format_version}; this llama-orch reads {FORMAT_VERSION}"
            )
        self.header = first

    def evidence(self) -> Iterator[Evidence]:
        """Every record between header and verdict; then the seal is checked.

        Raises:
            BadProof: something is missing, too long, of another order, or not as it was sealed.
        """
        while True:
            line = self._line()
            record = self._record(line)
            if isinstance(record, Run | Control | Bar):
                yield record
            elif isinstance(record, Verdict):
                self.verdict = record
                break
            else:
                raise BadProof(f"line {self._lines} is a {record.kind}, where evidence belongs")
        self._check_seal()

    def _check_seal(self) -> None:
        sealed, lines = f"sha256:{self._digest.hexdigest()}", self._lines
        line = self._line()
        seal = self._record(line)
        if not isinstance(seal, Seal):
            raise BadProof(f"line {self._lines} is a {seal.kind}, where the seal belongs")
        if line != _line_of(seal) or self._file.read(1):
            raise BadProof("something stands beside the seal, or behind it")
        if (seal.lines, seal.sha256) != (lines, sealed):
            raise BadProof(
                f"it is not as it was sealed: {lines} lines of {sealed}, sealed as {seal.lines}"
                f" lines of {seal.sha256}"
            )
        self.sha256 = f"sha256:{self._digest.hexdigest()}"

    def _line(self) -> bytes:
        line = self._file.readline(LINE_BYTES_MAX + 1)
        self._lines += 1
        self._bytes += len(line)
        if len(line) > LINE_BYTES_MAX:
            raise BadProof(f"line {self._lines} is longer than {LINE_BYTES_MAX >> 20} MiB")
        if self._bytes > PROOF_BYTES_MAX or self._lines > LINES_MAX:
            raise BadProof(f"it is larger than {PROOF_BYTES_MAX >> 20} MiB or {LINES_MAX:,} lines")
        if not line.endswith(b"\n"):
            raise BadProof(f"it ends within line {self._lines}: a part is missing")
        self._digest.update(line)
        return line

    def _record(self, line: bytes) -> Record:
        try:
            return _RECORD.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadProof(
                f"line {self._lines} is not of a proof: {where + ': ' if where else ''}"
                f"{first['msg']}"[:400]
            ) from None


def open_regular(path: Path) -> BinaryIO:
    """`path` for reading, never waiting; OSError, and BadProof where it is no regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadProof("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def write_proof(path: Path, header: Header, evidence: Iterable[Evidence], verdict: Verdict) -> str:
    """Write a sealed proof in the place of whatever is at `path`; returns the file's sha256.

    Raises:
        OSError: it cannot be written there.
    """
    digest, lines = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            for record in (header, *evidence, verdict):
                line = _line_of(record)
                digest.update(line)
                file.write(line)
                lines += 1
            seal = Seal(lines=lines, sha256=f"sha256:{digest.hexdigest()}")
            line = _line_of(seal)
            digest.update(line)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return f"sha256:{digest.hexdigest()}"


def _line_of(record: Record) -> bytes:
    return record.model_dump_json().encode() + b"\n"
