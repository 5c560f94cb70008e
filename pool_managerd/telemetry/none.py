"""`gpus.source: none`: a machine without cards, or one whose cards are not to be used."""

from __future__ import annotations

import anyio

from pool_managerd.telemetry.sampler import Take


class NoSource:
    """Says once that there are no cards."""

    async def run(self, take: Take) -> None:
        """See `DeviceSource`."""
        take(None, 0)
        await anyio.sleep_forever()
