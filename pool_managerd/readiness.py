"""Whether a replica really serves: who answers, then a token.

An open port proves nothing: it may be a stranger's.  So nothing that holds a
prompt or our key is sent before it is known who listens:

1. somebody listens on the port;
2. the listening socket belongs to the replica's process group; where it belongs
   to another process (a container's proxy, say), whoever answers must take the
   key of this launch and refuse a wrong one;
3. the engine says that it is not loading any more;
4. it generates one token.  One that was adopted in the midst of its work need not:
   the work is the proof, and `watching` judges whether it goes on.
"""

from __future__ import annotations

import anyio
import anyio.to_thread

from contracts.pools import FailureReason
from pool_managerd.failure import Failure
from pool_managerd.procfs import Listener, listener_on
from pool_managerd.watching import generate_one_token
from worker_adapters.base import EngineClient, Observation
from worker_adapters.errors import EngineBusy, EngineError, EngineLost, EngineUnreachable

POLL_FIRST_S = 0.02
POLL_MAX_S = 0.5
SILENT_S = 30.0
"""What an adopted engine gets for its first answer: it has served before."""


class NotOurs(Exception):
    """Somebody else answers on the replica's port."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(FailureReason.IDENTITY_MISMATCH, message)


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


async def until_serving(client: EngineClient) -> Observation:
    """`serving`, as soon as the engine can be reached and is not loading any more."""
    pause = POLL_FIRST_S
    while True:
        try:
            return await serving(client)
        except (EngineBusy, EngineUnreachable, EngineLost):
            await anyio.sleep(pause)
            pause = min(pause * 1.5, POLL_MAX_S)


async def serving(client: EngineClient) -> Observation:
    """What the engine says of itself, and the proof that it generates: one token.

    Raises:
        EngineError: it does not serve.
    """
    observation = await client.observe()
    await generate_one_token(client)
    return observation


async def until_adopted(client: EngineClient) -> Observation:
    """What an engine that is taken back says of itself.

    One that is at work need not generate a token: it could wait for minutes behind
    what runs.  One that was still loading is waited for as at any start.

    Raises:
        EngineError: it does not serve.
        TimeoutError: it says nothing.
    """
    pause = POLL_FIRST_S
    while True:
        try:
            with anyio.fail_after(SILENT_S):
                observation = await client.observe()
                if not observation.slots_busy:
                    await generate_one_token(client)
                return observation
        except (EngineBusy, EngineUnreachable, EngineLost):
            await anyio.sleep(pause)
            pause = min(pause * 1.5, POLL_MAX_S)
