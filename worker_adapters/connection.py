"""One engine's address and dialect: how every adapter asks it, streams from it, and knows it."""

from __future__ import annotations

import secrets
from contextlib import AbstractAsyncContextManager

from worker_adapters.answers import Refusal, Shape, accepted, read_json
from worker_adapters.event_stream import EngineEvents, open_events
from worker_adapters.transport import ANSWER_TIMEOUT_S, Answer, EngineTransport, Target


class EngineConnection:
    """How to speak to one running engine.

    Args:
        refusal: the dialect's table of what an answer that is not 200 means.
        engine: the engine's name, for messages.
    """

    def __init__(
        self,
        transport: EngineTransport,
        base_url: str,
        api_key: str | None,
        *,
        refusal: Refusal,
        engine: str,
    ) -> None:
        self._transport = transport
        self._target = Target(base_url.rstrip("/"), api_key)
        self._refusal = refusal
        self._engine = engine

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        correlation_id: str | None = None,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """An answer of any status; raises as the transport does."""
        return await self._transport.ask(
            method,
            self._target.base_url + path,
            headers=self._target.headers(correlation_id),
            body=body,
            timeout_s=timeout_s,
        )

    async def body(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        correlation_id: str | None = None,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> bytes:
        """The body of a 200; raises what any other status means."""
        answer = await self.ask(method, path, body, correlation_id, timeout_s=timeout_s)
        return accepted(answer, self._refusal)

    async def json(
        self,
        method: str,
        path: str,
        shape: type[Shape],
        body: bytes | None = None,
        correlation_id: str | None = None,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Shape:
        """A 200 as `shape`; EngineProtocolError where it is something else."""
        said = await self.body(method, path, body, correlation_id, timeout_s=timeout_s)
        return read_json(said, shape)

    def events(
        self, path: str, body: bytes, correlation_id: str
    ) -> AbstractAsyncContextManager[EngineEvents]:
        """The event stream of a generation; see `open_events`."""
        return open_events(
            self._transport,
            self._target,
            path,
            body=body,
            correlation_id=correlation_id,
            refusal=self._refusal,
            engine=self._engine,
        )

    async def takes_only_our_key(self, path: str, body: bytes | None = None) -> bool:
        """Whether the guarded route `path` refuses a wrong key and takes ours.

        It is asked by GET, or by POST of a `body`.  False also where there is no key:
        then nothing can be proved.  The wrong key goes first: a stranger that takes any
        key never sees ours.

        Raises:
            EngineError: it cannot tell yet.
        """
        if self._target.api_key is None:
            return False
        stranger = Target(self._target.base_url, secrets.token_hex(16))
        method = "GET" if body is None else "POST"
        refused = await self._transport.ask(
            method, self._target.base_url + path, headers=stranger.headers(), body=body
        )
        if refused.status != 401:
            accepted(refused, self._refusal)
            return False
        return (await self.ask(method, path, body)).status == 200
