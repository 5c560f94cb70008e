"""One file over HTTP into its part: resumed by range, bounded, hashed as it comes.

A download that broke off goes on where it stopped if that is safe: the server
still has the same strong ETag (asked by If-Range), or a digest will tell in the
end.  Otherwise it begins again.  A transfer has no deadline of its own, a large
model takes hours, but it may not stand still: 64 KiB must come within
`policy.downloads.stall_timeout_ms`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import aiohttp
import anyio
import anyio.to_thread

from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.cache import Finished
from pool_managerd.models.guarded_client import GuardedClient, Interrupted, judge
from pool_managerd.models.part_file import Description, PartFile
from pool_managerd.models.remote import Remote, failed

BLOCK_BYTES = 64 * 1024
WRITE_BYTES = 1024 * 1024
ROOM_STEP_BYTES = 16 * 1024 * 1024
TRIES = 5
"""In a row, each of which brought less than `GAIN_BYTES`."""
GAIN_BYTES = 16 * 1024 * 1024
BACKOFF_S = 0.5

_RANGE = re.compile(r"bytes ([0-9]{1,16})-([0-9]{1,16})/([0-9]{1,16})")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,254}"')
_LENGTH = re.compile(r"[0-9]{1,16}")

Room = Callable[[int], Awaitable[None]]
"""Sees to room for so many more bytes; raises LaunchRefused where there is none."""
Report = Callable[[int, int | None], None]
"""Told the bytes that are there, and of how many."""


class Downloader:
    """Fetches files under the bounds of one configuration."""

    def __init__(self, client: GuardedClient, max_bytes: int, backoff_s: float = BACKOFF_S) -> None:
        self._client = client
        self._max_bytes = max_bytes
        self._backoff_s = backoff_s

    async def fetch(self, remote: Remote, part: PartFile, room: Room, report: Report) -> Finished:
        """Bring the part to its end and check it; what it is then.

        Raises:
            LaunchRefused: it cannot be had, or is not what it should be.
            OSError: the disk refuses.
        """
        self._bounded(remote, remote.size)
        while await anyio.to_thread.run_sync(part.rehash):
            report(part.size, remote.size)
        tries = 0
        while not _is_whole(remote, part):
            before = part.size
            try:
                await self._pull(remote, part, room, report)
                break
            except Interrupted as error:
                tries = 1 if part.size - before >= GAIN_BYTES else tries + 1
                if tries >= TRIES:
                    raise failed(
                        f"{remote.name}: {error}; tried {tries} times, {part.size} bytes are kept"
                        " and the next try goes on from there where the server allows it"
                    ) from error
                await anyio.sleep(self._backoff_s * 2 ** (tries - 1))
        if not part.size:
            raise failed(f"{remote.name}: the server sends an empty file")
        await anyio.to_thread.run_sync(part.sync)
        report(part.size, part.size)
        await self._check(remote, part)
        return Finished(part.key, part.digest, part.size, part.description.etag)

    async def _pull(self, remote: Remote, part: PartFile, room: Room, report: Report) -> None:
        """One request; returns once the part is whole.

        Raises:
            Interrupted: it is not, and may be asked for again.
        """
        if part.size and not _resumable(remote, part):
            await anyio.to_thread.run_sync(part.restart)
        headers = {}
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
            if part.description.etag is not None:
                headers["If-Range"] = part.description.etag
        async with self._client.opened("GET", remote.url, headers, remote.credentials) as response:
            total = await self._begin(remote, part, response)
            if total is not None:
                await room(total - part.size)
            await self._receive(remote, part, response, total, room, report)
        if total is not None and part.size < total:
            raise Interrupted(f"the body ended after {part.size} of {total} bytes")

    async def _begin(
        self, remote: Remote, part: PartFile, response: aiohttp.ClientResponse
    ) -> int | None:
        """Judge the head of the answer and make the part fit it; the size of the whole file."""
        if response.status == 416:
            await anyio.to_thread.run_sync(part.restart)
            raise Interrupted("the server does not have the range that is missing")
        judge(response, remote.name, 200, 206)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise failed(
                f"{remote.name}: the server sends it encoded, though asked for it as it is"
            )
        etag = _etag(response)
        if response.status == 206:
            return await self._go_on(remote, part, response, etag)
        if part.size:
            await anyio.to_thread.run_sync(part.restart)
        total = remote.size
        length = response.headers.get("Content-Length", "")
        if _LENGTH.fullmatch(length):
            total = self._announced(remote, int(length))
        await anyio.to_thread.run_sync(part.describe, Description(etag, total))
        return total

    async def _go_on(
        self, remote: Remote, part: PartFile, response: aiohttp.ClientResponse, etag: str | None
    ) -> int:
        """The whole size, where the range is the one asked for, of the file it was begun of."""
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or not part.size:
            raise failed(f"{remote.name}: the server answers a range that was not asked for")
        start, total = int(found[1]), self._announced(remote, int(found[3]))
        changed = part.description.etag is not None and etag != part.description.etag
        resized = part.description.total is not None and total != part.description.total
        if start != part.size or changed or resized:
            await anyio.to_thread.run_sync(part.restart)
            raise Interrupted("the file changed on the server while it was fetched")
        return total

    async def _receive(
        self,
        remote: Remote,
        part: PartFile,
        response: aiohttp.ClientResponse,
        total: int | None,
        room: Room,
        report: Report,
    ) -> None:
        held, unseen = bytearray(), 0
        most = self._max_bytes if total is None else total
        try:
            more = True
            while more:
                more = await self._fill(held, response.content)
                if part.size + len(held) > most:
                    await self._refuse_longer(remote, part, held, most)
                report(part.size + len(held), total)
                if len(held) >= WRITE_BYTES:
                    await anyio.to_thread.run_sync(part.append, bytes(held))
                    unseen += len(held)
                    held.clear()
                if unseen >= ROOM_STEP_BYTES:
                    unseen = 0
                    await room(0 if total is None else total - part.size)
        finally:
            if held and part.size + len(held) <= most:
                # What has come is kept, whatever ended it: one write of a megabyte at most.
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(part.append, bytes(held))

    async def _refuse_longer(
        self, remote: Remote, part: PartFile, held: bytearray, most: int
    ) -> None:
        held.clear()
        await anyio.to_thread.run_sync(part.restart)
        raise failed(f"{remote.name}: the server sends more than the {most} bytes it may have")

    async def _fill(self, held: bytearray, content: aiohttp.StreamReader) -> bool:
        """Add the next 64 KiB or more, also what comes before a break; false at the end."""
        before = len(held)
        try:
            with anyio.fail_after(self._client.stall_s):
                while len(held) - before < BLOCK_BYTES:
                    chunk = await content.readany()
                    if not chunk:
                        return False
                    held += chunk
        except TimeoutError:
            raise Interrupted(
                f"it stands still: {len(held) - before} bytes in {self._client.stall_s:g} s"
            ) from None
        return True

    def _announced(self, remote: Remote, total: int) -> int:
        if remote.size is not None and total != remote.size:
            raise failed(
                f"{remote.name}: the server announces {total} bytes, and it has {remote.size}"
            )
        self._bounded(remote, total)
        return total

    def _bounded(self, remote: Remote, total: int | None) -> None:
        if total is not None and total > self._max_bytes:
            raise failed(
                f"{remote.name}: {total} bytes, and policy.downloads.max_bytes is"
                f" {self._max_bytes}; raise it if that is right"
            )

    async def _check(self, remote: Remote, part: PartFile) -> None:
        if remote.digest in (None, part.digest):
            return
        name = await anyio.to_thread.run_sync(part.set_aside)
        raise LaunchRefused(
            FailureReason.MODEL_INVALID,
            f"{remote.name}: what was fetched has {part.digest}, and {remote.digest} is asked for;"
            f" it is kept as parts/{name} of the model cache and never served: correct the digest,"
            " or remove that file to fetch it again",
        )


def _is_whole(remote: Remote, part: PartFile) -> bool:
    """Whether an earlier try fetched all of it already."""
    if not part.size:
        return False
    if remote.digest is not None and part.digest == remote.digest:
        return True
    total = part.description.total
    return total is not None and part.size == total and _resumable(remote, part)


def _resumable(remote: Remote, part: PartFile) -> bool:
    """Whether more bytes may be added to those of an earlier request."""
    return remote.digest is not None or part.description.etag is not None


def _etag(response: aiohttp.ClientResponse) -> str | None:
    """A strong ETag; a weak one does not promise the same bytes."""
    etag = response.headers.get("ETag", "")
    return etag if _STRONG_ETAG.fullmatch(etag) else None
