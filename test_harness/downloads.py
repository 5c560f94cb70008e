"""A model resolver over a cache of its own, with short times, and what lies around the cache."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.config import Downloads
from contracts.pools import FailureReason, Preparation
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.resolve import ModelResolver

MIB = 1024 * 1024


def sha256(content: bytes) -> str:
    """The digest of `content`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def content_of(size: int, seed: int = 0) -> bytes:
    """So many bytes that are the same each time."""
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


def under(root: Path, pattern: str = "*") -> list[Path]:
    """Everything below `root` whose name fits."""
    return sorted(root.rglob(pattern))


@dataclass
class Downloading:
    """A resolver, and what it told."""

    resolver: ModelResolver
    root: Path
    told: list[Preparation] = field(default_factory=list)

    async def resolve(
        self,
        ref: str,
        digest: str | None = None,
        in_use: Collection[Path] = (),
        *,
        holder: str = "",
    ) -> Path:
        """The file of a ref."""
        return await self.resolver.resolve(ref, digest, self.told.append, in_use, holder=holder)

    async def fetch(self, url: str, digest: str | None = None, *, holder: str = "") -> Path:
        """The file at a URL."""
        return await self.resolver.fetch(url, digest, self.told.append, holder=holder)

    async def refusal(self, url: str, digest: str | None = None) -> tuple[FailureReason, str]:
        """Why the file at a URL cannot be had."""
        try:
            path = await self.fetch(url, digest)
        except LaunchRefused as refused:
            return refused.failure.reason, refused.failure.message
        raise AssertionError(f"{url} was fetched to {path}")

    def files(self) -> set[str]:
        """Every file under the root, the lock and the index aside."""
        found = {
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()
        }
        return found - {"models/lock", "models/index.json"}


@asynccontextmanager
async def downloading(
    root: Path,
    changes: dict[str, Any] | None = None,
    **arguments: Any,
) -> AsyncIterator[Downloading]:
    """Allows 127.0.0.1, and gives the cache back at the end."""
    settings = {"allow": True, "hosts": ["127.0.0.1"], "disk_floor_bytes": 0}
    downloads = Downloads.model_validate(settings | (changes or {}), strict=False)
    resolver = ModelResolver(downloads, root, backoff_s=0.001, **arguments)
    try:
        yield Downloading(resolver, root)
    finally:
        await resolver.close()
