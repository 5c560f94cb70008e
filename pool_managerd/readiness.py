"""Whether a replica really serves: who answers, then a token, then every few seconds.

An open port proves nothing: it may be a stranger's.  So nothing that holds a
prompt or our key is sent before it is known who listens:

1. somebody listens on the port;
2. the listening socket belongs to the replica's process group; where it belongs
   to another process (a container's proxy, say), whoever answers must take the
   key of this launch and refuse a wrong one;
3. the engine says that it is not loading any more;
4. it generates one token.

A replica that serves is asked seldom: llama.cpp looks for a client that hung up
only after a second in which no answer passed, and each poll is an answer.  That
an engine is slow to answer is no failure, a long prefill does that; that nobody
takes connections any more is one, the third time in a row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

import anyio
import anyio.to_thread

from contracts.ids import new_uuid
from contracts.pools import FailureReason
from pool_managerd.failure import Failure
from pool_managerd.procfs import Listener, listener_on
from worker_adapters.base import EngineClient, GenerationRequest, Observation
from worker_adapters.errors import EngineBusy, EngineError, EngineLost, EngineUnreachable

POLL_FIRST_S = 0.02
POLL_MAX_S = 0.5
OBSERVE_S = 3.0
PROBE_S = 30.0
MISSED_MAX = 3
CANARY_PROMPT = "The"


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
    await _canary(client)
    return observation


async def _canary(client: EngineClient) -> None:
    """Have one token generated, as any task would."""
    request = GenerationRequest(
        prompt=CANARY_PROMPT, max_tokens=1, seed=0, temperature=0.0, correlation_id=new_uuid()
    )
    async with aclosing(client.stream(request)) as events:
        async for _ in events:
            pass


async def until_lost(
    client: EngineClient,
    answered: Callable[[Observation], Awaitable[None]],
    unanswered: Callable[[str], Awaitable[None]],
) -> None:
    """Watch an engine that serves; returns once it was unreachable `MISSED_MAX` times in a row.

    `answered` hears what it says, `unanswered` of a refused connection.  After a miss
    only a new token counts as an answer: a probe that passes is no proof.
    """
    missed = 0
    while missed < MISSED_MAX:
        await anyio.sleep(OBSERVE_S if missed == 0 else OBSERVE_S / 3)
        try:
            with anyio.fail_after(PROBE_S):
                seen = await (serving(client) if missed else client.observe())
            missed = 0
            await answered(seen)
        except TimeoutError:
            continue
        except EngineUnreachable as error:
            missed += 1
            await unanswered(str(error))
        except EngineError:
            continue
