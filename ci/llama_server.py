"""Builds llama-server as `provisioning.mode: source` does: `python -m ci.llama_server DIR`.

What was built already is kept.  Writes its path to stdout, and its progress to stderr.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import anyio

from contracts.config import Pool
from contracts.pools import Preparation
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.resolve import ModelResolver
from pool_managerd.provisioning import source
from pool_managerd.provisioning.tools import ProvisioningTools
from worker_adapters.base import LaunchSpec

POOL = Pool.model_validate(
    {
        "id": "tests",
        "engine": "llamacpp",
        "model": {"id": "tests", "ref": "file:/tests"},
        "provisioning": {"mode": "source"},
    }
)


def main() -> int:
    """Build into the directory of the command line; 1 where that cannot be done."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(anyio.run(_built, Path(sys.argv[1]).resolve()))
    except LaunchRefused as refused:
        print(f"ci.llama_server: {refused.failure.message}", file=sys.stderr)
        return 1
    return 0


async def _built(directory: Path) -> str:
    """The path of the program; raises LaunchRefused where it cannot be built."""
    tools = ProvisioningTools(
        state_dir=directory,
        downloads_allowed=True,
        models=ModelResolver.files_only(),
        preparing=_tell,
        unix_ms=lambda: time.time_ns() // 1_000_000,
        holder="tests/0",
    )
    return (await source.provision(POOL, _spec(), tools)).argv[0]


def _spec() -> LaunchSpec:
    """A launch on the CPU; nothing is started."""
    return LaunchSpec(
        model_path=Path("/tests"),
        model_alias="tests",
        host="127.0.0.1",
        port=1,
        ctx=POOL.ctx,
        slots=POOL.slots,
        device_uuids=(),
        engine_args=(),
        api_key="",
    )


def _tell(preparation: Preparation | None) -> None:
    if preparation is not None and preparation.total:
        print(f"\r{preparation.done}/{preparation.total}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
