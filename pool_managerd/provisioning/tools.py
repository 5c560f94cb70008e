"""What provisioning works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contracts.pools import Preparation
from pool_managerd.models.resolve import ModelResolver


@dataclass(frozen=True, slots=True)
class ProvisioningTools:
    """One set per launch.

    `preparing` is told how far it has come; `holder` is the replica's id, which keeps
    what was fetched from making room for something else.
    """

    state_dir: Path
    downloads_allowed: bool
    models: ModelResolver
    preparing: Callable[[Preparation | None], None]
    unix_ms: Callable[[], int]
    holder: str
