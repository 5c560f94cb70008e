"""An engine that writes as fast as it can, and the disk it may take for that."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from contracts.pools import ReplicaState
from pool_managerd.replica_log import LOG_BYTES_MAX
from test_harness.supervised import SupervisorHarness

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CAP_BYTES = LOG_BYTES_MAX + LOG_BYTES_MAX // 2
SLACK_BYTES = 192 * 2**20
"""More than a stand-in writes in a twentieth of a second, on a busy machine too."""
FLOOD_BYTES = 500 * 2**20
FLOOD_DEADLINE_S = 60.0
LOOK_S = 0.002


async def test_a_flood_of_500_mb_takes_no_more_than_the_bound(harness: SupervisorHarness) -> None:
    """LO-POOL-130, LO-POOL-011."""
    largest = 0
    async with harness.supervise(harness.pool("--fault", "log-flood")) as it:
        await it.until(lambda replica: replica.log is not None)
        log = it.replica.log
        assert log is not None
        kept = [log.path, log.path.with_suffix(".log.1")]
        with anyio.fail_after(FLOOD_DEADLINE_S):
            while log.end() < FLOOD_BYTES:
                largest = max(largest, sum(p.stat().st_size for p in kept if p.exists()))
                await anyio.sleep(LOOK_S)
            await it.until_state(ReplicaState.READY)
        piece = await anyio.to_thread.run_sync(log.read, log.start_of_last(1))
        assert piece.content.startswith(b"x")
    assert LOG_BYTES_MAX // 2 < largest <= CAP_BYTES + SLACK_BYTES
