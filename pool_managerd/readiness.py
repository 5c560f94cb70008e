"""Whether a replica really serves: who answers, then a piece of its work.

An open port proves nothing: it may be a stranger's.  So nothing that holds a
prompt or our key is sent before it is known who listens:

1. somebody listens on the port;
2. the listening socket belongs to the replica's process group; where it belongs
   to another process (a container's proxy, say), whoever answers must take the
   key of this launch and refuse a wrong one;
3. the engine says that it is not loading any more;
4. it says that it does what its pool is for;
5. it does the smallest piece of that: one token, mostly.  One that was adopted in the
   midst of its work need not: the work is the proof, and `watching` judges whether it
   goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import anyio.to_thread

from contracts.pools import FailureReason, PoolWorkload
from pool_managerd.canary import prove, workload_missing
from pool_managerd.failure import Failure
from pool_managerd.procfs import Listener, listener_on
from worker_adapters.base import EngineCapabilities, EngineClient, Observation
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineLost,
    EngineRefused,
    EngineUnreachable,
)

POLL_FIRST_S = 0.02
POLL_MAX_S = 0.5
SILENT_S = 30.0
"""What an adopted engine gets for its first answer: it has served before."""


class Unfit(Exception):
    """What answers is not to serve."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class NotOurs(Unfit):
    """Somebody else answers on the replica's port."""

    def __init__(self, message: str) -> None:
        super().__init__(Failure(FailureReason.IDENTITY_MISMATCH, message))


@dataclass(frozen=True, slots=True)
class Introduction:
    """What an engine said of itself before it was given work."""

    observation: Observation
    capabilities: EngineCapabilities


async def until_ours(client: EngineClient, port: int, group: int) -> None:
    """Return once it is proved that the process group `group` answers on `port`.

    Raises:
        NotOurs: somebody else does.
    """
    pause = POLL_FIRST_S
    while True:
        match await anyio.to_thread.run_sync(listener_on, port, group):
            case Listener.OURS:
                return
            case Listener.BOTH:
                raise NotOurs(f"port {port} is shared with another process; another one is tried")
            case Listener.OTHERS if await _holds_the_key(client):
                return
        await anyio.sleep(pause)
        pause = min(pause * 1.5, POLL_MAX_S)


async def _holds_the_key(client: EngineClient) -> bool:
    """Whether whoever answers has the key of this launch; False: it cannot tell yet.

    Raises:
        NotOurs: it does not.
    """
    try:
        if await client.prove_identity():
            return True
    except (EngineBusy, EngineUnreachable, EngineLost):
        return False
    except EngineError as error:
        raise NotOurs(f"another server answers on the port of this replica: {error}") from error
    raise NotOurs("another server answers on the port of this replica; another port is tried")


async def until_serving(client: EngineClient, workload: PoolWorkload) -> Introduction:
    """`serving`, as soon as the engine can be reached and is not loading any more."""
    pause = POLL_FIRST_S
    while True:
        try:
            return await serving(client, workload)
        except (EngineBusy, EngineUnreachable, EngineLost):
            await anyio.sleep(pause)
            pause = min(pause * 1.5, POLL_MAX_S)


async def serving(client: EngineClient, workload: PoolWorkload) -> Introduction:
    """What the engine says of itself, and the proof that it works: the least piece of it.

    Raises:
        Unfit: it is not for this workload.
        EngineError: it does not serve.
    """
    introduction = await _introduced(client, workload)
    await prove(client, workload, introduction.capabilities.workloads)
    return introduction


async def until_adopted(client: EngineClient, workload: PoolWorkload) -> Introduction:
    """What an engine that is taken back says of itself.

    One that is at work need not prove that it works: the proof could wait for minutes
    behind what runs.  One that was still loading is waited for as at any start.

    Raises:
        Unfit: it is not for this workload.
        EngineError: it does not serve.
        TimeoutError: it says nothing.
    """
    pause = POLL_FIRST_S
    while True:
        try:
            with anyio.fail_after(SILENT_S):
                introduction = await _introduced(client, workload)
                if not introduction.observation.slots_busy:
                    await prove(client, workload, introduction.capabilities.workloads)
                return introduction
        except (EngineBusy, EngineUnreachable, EngineLost):
            await anyio.sleep(pause)
            pause = min(pause * 1.5, POLL_MAX_S)


async def _introduced(client: EngineClient, workload: PoolWorkload) -> Introduction:
    try:
        introduction = Introduction(await client.observe(), await client.capabilities())
    except EngineRefused as refused:
        # It knows the work and has not the model for it: another start changes nothing.
        raise Unfit(Failure(FailureReason.WORKLOAD_MISSING, refused.message)) from refused
    lack = workload_missing(workload, introduction.capabilities.workloads)
    if lack is not None:
        raise Unfit(lack)
    return introduction
