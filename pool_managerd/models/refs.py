"""Where a model comes from: a ref, parsed once into a value.

    file:/path                                  a file on this machine
    https://host/path                           a web server
    hf:OWNER/REPO/FILE[@REVISION]               Hugging Face, or a mirror of it
    s3:BUCKET/KEY                               an object store
    oci:REGISTRY/NAME:TAG, …/NAME@sha256:…      a container registry

No part of a ref is ever a file name of ours: files are named after digests.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from contracts.ids import DIGEST_PATTERN
from contracts.service.settings import model_file

REF_CHARACTERS_MAX = 4096
PARTS_MAX = 999

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]")
_HF_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=,()\[\]-]{0,254}")
_REVISION = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}){0,7}"
)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGISTRY = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:]{2,45}\])(:[0-9]{1,5})?")
# The grammar of names and tags is the one of the OCI distribution specification 1.1.
_OCI_PART = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(DIGEST_PATTERN)
# How llama.cpp names the files of a model that was split (gguf-split).
_SPLIT = re.compile(r"(?P<stem>.*)-(?P<part>[0-9]{5})-of-(?P<parts>[0-9]{5})\.gguf")


class RefInvalid(ValueError):
    """A ref that names no model; says what is wrong with which ref."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class HttpsRef:
    """A file of a web server."""

    url: str


@dataclass(frozen=True, slots=True)
class HfRef:
    """A file of a repository of models; `filename` may name folders."""

    repo: str
    filename: str
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class S3Ref:
    """An object in a bucket."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class OciRef:
    """An artifact of a registry, by tag or digest."""

    registry: str
    repository: str
    reference: str


Ref = FileRef | HttpsRef | HfRef | S3Ref | OciRef


def parse(ref: str) -> Ref:
    """The model that `ref` names.

    Raises:
        RefInvalid: it names none.
    """
    scheme, _, rest = ref.partition(":")
    if len(ref) > REF_CHARACTERS_MAX:
        raise RefInvalid(f"{scheme[:16]}: ref longer than {REF_CHARACTERS_MAX} characters")
    if scheme == "file":
        return _file(ref)
    if scheme not in _READERS:
        raise RefInvalid(f"{ref!r}: a ref starts with file:, hf:, https:, s3: or oci:")
    if not _VISIBLE.fullmatch(rest):
        raise _bad(ref, "it holds a space, or a character that is not plain ASCII")
    return _READERS[scheme](ref, rest)


def split_names(name: str) -> tuple[str, ...]:
    """The names of all files of a model whose first one is `name`; itself where it is whole.

    Raises:
        RefInvalid: `name` is a later part, or counts too many.
    """
    found = _SPLIT.fullmatch(name)
    if found is None:
        return (name,)
    part, parts = int(found["part"]), int(found["parts"])
    if part != 1:
        raise RefInvalid(f"{name}: part {part} of a split model; name part 00001")
    if not 1 <= parts <= PARTS_MAX:
        raise RefInvalid(f"{name}: a split model has 1 to {PARTS_MAX} parts")
    return tuple(f"{found['stem']}-{n:05}-of-{parts:05}.gguf" for n in range(1, parts + 1))


def source_key(ref: str) -> str:
    """64 hex digits that stand for a ref, wherever a file is named after one."""
    return hashlib.sha256(ref.encode("utf-8", "surrogatepass")).hexdigest()


def _bad(ref: str, what: str) -> RefInvalid:
    return RefInvalid(f"{ref[:200]!r}: {what}")


def _file(ref: str) -> FileRef:
    if "\0" in ref:
        raise _bad(ref, "a path holds no NUL")
    path = model_file(ref)
    if path is None or ref == "file:":
        raise _bad(ref, "use file:/path/to/model.gguf")
    return FileRef(path)


def _https(ref: str, rest: str) -> HttpsRef:
    try:
        parts = urlsplit(ref)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _bad(ref, "this is no URL") from None
    if not rest.startswith("//") or not host:
        raise _bad(ref, "use https://host/path")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise _bad("https:", "a ref carries no user and no password")
    if not _HOST.fullmatch(f"[{host}]" if ":" in host else host) or port == 0:
        raise _bad(ref, "this is no host")
    if parts.fragment or "#" in ref:
        raise _bad(ref, "a fragment (#) names no file")
    if "\\" in ref or parts.path in ("", "/"):
        raise _bad(ref, "its path names no file")
    return HttpsRef(ref)


def _hf(ref: str, rest: str) -> HfRef:
    name, at, revision = rest.partition("@")
    parts = name.split("/")
    if len(parts) < 3:
        raise _bad(ref, "use hf:OWNER/REPO/FILE, or hf:OWNER/REPO/FILE@REVISION")
    if not all(_HF_NAME.fullmatch(part) and ".." not in part for part in parts[:2]):
        raise _bad(ref, "the owner and the repository are letters, digits, `.`, `_` and `-`")
    _checked_segments(ref, parts[2:])
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _bad(ref, "this is no revision")
    return HfRef("/".join(parts[:2]), "/".join(parts[2:]), revision if at else "main")


def _s3(ref: str, rest: str) -> S3Ref:
    bucket, _, key = rest.removeprefix("//").partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise _bad(ref, "a bucket is 3 to 63 lower-case letters, digits, `.` and `-`")
    _checked_segments(ref, key.split("/"))
    return S3Ref(bucket, key)


def _oci(ref: str, rest: str) -> OciRef:
    registry, _, name = rest.removeprefix("//").partition("/")
    if not _REGISTRY.fullmatch(registry):
        raise _bad(ref, "use oci:REGISTRY/NAME:TAG, or oci:REGISTRY/NAME@sha256:DIGEST")
    repository, at, reference = name.partition("@")
    if at:
        if not _DIGEST.fullmatch(reference):
            raise _bad(ref, "a digest is sha256: and 64 lower-case hex digits")
    else:
        repository, colon, reference = name.partition(":")
        reference = reference if colon else "latest"
        if not _TAG.fullmatch(reference):
            raise _bad(ref, "this is no tag")
    if len(repository) > 255 or not all(map(_OCI_PART.fullmatch, repository.split("/"))):
        raise _bad(ref, "a repository is lower-case letters and digits, joined by `/`, `.` or `-`")
    return OciRef(registry, repository, reference)


def _checked_segments(ref: str, segments: list[str]) -> None:
    if len("/".join(segments)) > 1024:
        raise _bad(ref, "its path is longer than 1024 characters")
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise _bad(ref, "each part of its path is letters, digits and `._+=,()[]-`, none hidden")


_READERS: Mapping[str, Callable[[str, str], Ref]] = {
    "https": _https,
    "hf": _hf,
    "s3": _s3,
    "oci": _oci,
}
