"""From a model's ref to a file on this machine.

A `file:` ref is its path.  Any other is looked for in the cache, by digest or by
what it was when it was fetched; only then is it downloaded, if the policy allows.
Replicas that want the same ref at once share one download: the first fetches, the
others wait, see its progress, and share its failure.  When the first is canceled
the next one goes on where it stopped.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
import structlog
from yarl import URL

from contracts.config import Downloads, ModelKind
from contracts.pools import FailureReason, Phase
from contracts.service.address_guard import Lookup, system_lookup
from contracts.service.settings import model_problem
from pool_managerd.clock import Clock, SystemClock
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.cache import (
    Finished,
    FreeBytes,
    ModelCache,
    digest_directory,
    free_bytes,
)
from pool_managerd.models.download_policy import DOWNLOADS_OFF
from pool_managerd.models.fetch_hf import hf_remotes
from pool_managerd.models.fetch_http import BACKOFF_S, Downloader
from pool_managerd.models.fetch_oci import oci_remotes
from pool_managerd.models.fetch_s3 import s3_remotes
from pool_managerd.models.guarded_client import GuardedClient, Interrupted
from pool_managerd.models.progress import Listener, Progress
from pool_managerd.models.refs import (
    FileRef,
    HfRef,
    HttpsRef,
    OciRef,
    Ref,
    RefInvalid,
    S3Ref,
    parse,
    source_key,
    split_names,
)
from pool_managerd.models.remote import Remote, failed

SUFFIXES = (".gguf", ".safetensors", ".whl", ".zip", ".tar.gz", ".tgz")
"""Endings that a cached file keeps, because programs look at them; of others there is none."""
LOOKUP_TRIES = 3

T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass
class _Flight:
    """One download under way, and who waits for it."""

    progress: Progress
    turn: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: int = 0
    failures: int = 0
    failure: LaunchRefused | None = None
    keys: tuple[str, ...] = ()


class ModelResolver:
    """Turns refs into files, under `policy.downloads`.

    Args:
        holders: the replicas of this configuration; what others held is no longer in use.
    """

    def __init__(
        self,
        downloads: Downloads,
        state_dir: Path,
        *,
        clock: Clock | None = None,
        holders: Collection[str] | None = None,
        lookup: Lookup = system_lookup,
        tls: ssl.SSLContext | None = None,
        free: FreeBytes = free_bytes,
        backoff_s: float = BACKOFF_S,
    ) -> None:
        self._downloads = downloads
        self._root = cache_root(downloads, state_dir)
        self._clock = clock or SystemClock()
        self._client = GuardedClient(downloads, lookup=lookup, tls=tls)
        self._downloader = Downloader(self._client, downloads.max_bytes, backoff_s)
        self._backoff_s = backoff_s
        self._open_cache = partial(ModelCache, self._root, downloads, holders, free)
        self._cache: ModelCache | None = None
        self._disk = anyio.Lock()
        self._flights: dict[str, _Flight] = {}

    @classmethod
    def files_only(cls) -> ModelResolver:
        """One that takes `file:` refs and denies every other."""
        return cls(Downloads(), Path("/nonexistent"))

    async def resolve(
        self,
        ref: str,
        digest: str | None,
        progress: Listener,
        in_use: Collection[Path] = (),
        *,
        holder: str = "",
        kind: ModelKind = "file",
    ) -> Path:
        """The file of a model; of a split one the first, the others lie beside it.

        Args:
            digest: the sha256 it must have; of a split model that of the first file.
                Of a `file:` it is checked elsewhere, beside the start of the engine.
            progress: told how a download goes.
            in_use: models that must not make room, besides those of holders.
            holder: who uses it from now on, in the place of what they used before;
                kept over a crash.
            kind: what it must be; a directory is on this machine already, or nowhere.

        Raises:
            LaunchRefused: MODEL_MISSING, MODEL_INVALID, DOWNLOAD_DENIED, DOWNLOAD_FAILED,
                or BAD_ARGUMENT for a ref or a key file that cannot be used.
        """
        try:
            source = parse(ref)
        except RefInvalid as error:
            raise LaunchRefused(FailureReason.BAD_ARGUMENT, f"model.ref: {error}") from error
        if isinstance(source, FileRef):
            return await anyio.to_thread.run_sync(_existing, source.path, kind)
        if kind == "directory":
            raise LaunchRefused(
                FailureReason.BAD_ARGUMENT,
                f"model.ref: this engine takes a directory, and {ref[:300]} is one file; fetch the"
                " model's files into a directory and name it by `file:`",
            )
        return await self._cached(ref, source, digest, progress, in_use, holder)

    async def fetch(
        self, url: str, digest: str | None, progress: Listener, *, holder: str = ""
    ) -> Path:
        """Any file by URL, under the same policy and in the same cache; raises as `resolve`."""
        source = HttpsRef(url)
        return await self._cached(url, source, digest, progress, (), holder)

    async def close(self) -> None:
        """Let another process have the cache."""
        async with self._disk:
            if self._cache is not None:
                await anyio.to_thread.run_sync(self._cache.close)
                self._cache = None

    async def _cached(
        self,
        ref: str,
        source: Ref,
        digest: str | None,
        progress: Listener,
        in_use: Collection[Path],
        holder: str,
    ) -> Path:
        if digest is not None:
            digest_directory(digest)
        key = source_key(ref)
        async with self._flight(key, progress) as flight:
            seen = flight.failures
            async with flight.turn:
                if flight.failures > seen and flight.failure is not None:
                    raise _again(flight.failure)
                try:
                    return await self._find_or_fetch(
                        flight, ref, key, source, digest, in_use, holder
                    )
                except LaunchRefused as refused:
                    flight.failures += 1
                    flight.failure = refused
                    raise

    @asynccontextmanager
    async def _flight(self, key: str, progress: Listener) -> AsyncIterator[_Flight]:
        flight = self._flights.setdefault(key, _Flight(Progress(self._clock)))
        flight.waiting += 1
        flight.progress.listeners.append(progress)
        try:
            yield flight
        finally:
            flight.progress.listeners.remove(progress)
            flight.waiting -= 1
            if not flight.waiting:
                del self._flights[key]

    async def _find_or_fetch(
        self,
        flight: _Flight,
        ref: str,
        key: str,
        source: Ref,
        digest: str | None,
        in_use: Collection[Path],
        holder: str,
    ) -> Path:
        try:
            if self._downloads.allow or await anyio.Path(self._root).is_dir():
                found = await self._on_disk(lambda cache: cache.find(key, digest, holder))
                if found is not None:
                    return found
            if not self._downloads.allow:
                raise LaunchRefused(FailureReason.DOWNLOAD_DENIED, f"{ref[:300]}: {DOWNLOADS_OFF}")
            flight.progress.begin(Phase.RESOLVING, ref)
            remotes = _expecting(digest, await self._described(source, ref))
            known = remotes[0].digest
            if known is not None:
                found = await self._on_disk(lambda cache: cache.find(key, known, holder))
                if found is not None:
                    return found
            flight.keys = tuple(f"{key}-{n:05}" for n in range(1, len(remotes) + 1))
            return await self._fetch_all(flight, ref, key, remotes, in_use, holder)
        except OSError as error:
            raise _disk_failure(ref, self._root, error) from error
        except RefInvalid as error:
            raise LaunchRefused(FailureReason.BAD_ARGUMENT, f"model.ref: {error}") from error

    async def _fetch_all(
        self,
        flight: _Flight,
        ref: str,
        key: str,
        remotes: Sequence[Remote],
        in_use: Collection[Path],
        holder: str,
    ) -> Path:
        finished: list[Finished] = []
        for part_key, remote in zip(flight.keys, remotes, strict=True):
            finished.append(await self._fetch_one(flight, part_key, remote, in_use))
        _log.info("model.fetched", ref=ref, digest=finished[0].digest)
        names = _names(remotes)
        return await self._on_disk(lambda cache: cache.admit(key, ref, names, finished, holder))

    async def _fetch_one(
        self, flight: _Flight, key: str, remote: Remote, in_use: Collection[Path]
    ) -> Finished:
        part = await self._on_disk(lambda cache: cache.part(key, remote.digest))

        async def room(needed: int) -> None:
            active = {key for flight in self._flights.values() for key in flight.keys}
            await self._on_disk(lambda cache: cache.make_room(needed, active, in_use))

        flight.progress.begin(Phase.DOWNLOADING, remote.name)
        try:
            return await self._downloader.fetch(remote, part, room, flight.progress.bytes)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(part.close)

    async def _remotes(self, source: Ref) -> tuple[Remote, ...]:
        """What a ref stands for, as its protocol tells."""
        match source:
            case HttpsRef(url):
                return _https_remotes(url)
            case HfRef():
                return await hf_remotes(source, self._downloads, self._client)
            case S3Ref():
                return await s3_remotes(source, self._downloads)
            case OciRef():
                return await oci_remotes(source, self._downloads, self._client)
            case FileRef():
                raise AssertionError("a file is not fetched")

    async def _described(self, source: Ref, ref: str) -> tuple[Remote, ...]:
        """As `_remotes`, asked again a few times where the connection breaks."""
        for tries in range(1, LOOKUP_TRIES + 1):
            try:
                return await self._remotes(source)
            except Interrupted as error:
                if tries == LOOKUP_TRIES:
                    raise failed(f"{ref[:300]}: {error}; tried {tries} times") from error
            await anyio.sleep(self._backoff_s * 2 ** (tries - 1))
        raise AssertionError("the last try returns or raises")

    async def _on_disk(self, act: Callable[[ModelCache], T]) -> T:
        """`act` on the cache, alone, in a worker thread; opens it at the first call."""
        async with self._disk:
            if self._cache is None:
                self._cache = await anyio.to_thread.run_sync(self._open_cache)
            return await anyio.to_thread.run_sync(act, self._cache)


def cache_root(downloads: Downloads, state_dir: Path) -> Path:
    """Where models are kept."""
    if downloads.cache_dir is None:
        return state_dir / "models"
    return Path(downloads.cache_dir).expanduser().absolute()


def _existing(path: Path, kind: ModelKind) -> Path:
    what = model_problem(path, kind)
    if what is not None:
        raise LaunchRefused(
            FailureReason.MODEL_MISSING,
            f"model.ref: {what}: {path}; put the model there, then restart pool_managerd",
        )
    return path


def _https_remotes(url: str) -> tuple[Remote, ...]:
    try:
        found = URL(url, encoded=True)
    except ValueError:
        raise RefInvalid(f"{url[:200]!r}: this is no URL") from None
    name = found.raw_path.rpartition("/")[2]
    parts = split_names(name)
    if len(parts) == 1:
        return (Remote(found, name),)
    base = str(found.with_query(None))
    query = f"?{found.raw_query_string}" if found.raw_query_string else ""
    base = base[: base.rindex("/") + 1]
    return tuple(Remote(URL(f"{base}{part}{query}", encoded=True), part) for part in parts)


def _expecting(digest: str | None, remotes: tuple[Remote, ...]) -> tuple[Remote, ...]:
    """The files, the first with the digest that the configuration asks for."""
    first = remotes[0]
    if digest is None or digest == first.digest:
        return remotes
    if first.digest is not None:
        raise LaunchRefused(
            FailureReason.MODEL_INVALID,
            f"{first.name}: its source says {first.digest}, and {digest} is asked for; nothing was"
            " fetched: correct the digest, or the ref",
        )
    return (replace(first, digest=digest), *remotes[1:])


def _names(remotes: Sequence[Remote]) -> tuple[str, ...]:
    """File names of ours; an engine finds the parts of a split model by theirs."""
    if len(remotes) > 1:
        return tuple(split_names(f"model-00001-of-{len(remotes):05}.gguf"))
    name = remotes[0].name.lower()
    return ("model" + next((suffix for suffix in SUFFIXES if name.endswith(suffix)), ""),)


def _again(failure: LaunchRefused) -> LaunchRefused:
    return LaunchRefused(failure.failure.reason, failure.failure.message)


def _disk_failure(ref: str, root: Path, error: OSError) -> LaunchRefused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return failed(
            f"{ref[:300]}: the disk of {root} is full; what was fetched is kept: free some space,"
            " or set another policy.downloads.cache_dir"
        )
    return failed(f"{ref[:300]}: the model cache {root} cannot be used: {error}")
