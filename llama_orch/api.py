"""Control calls to orchestratord: each with a deadline, each failure one sentence."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

import anyio
import httpx2
from pydantic import ValidationError

from contracts.errors import ErrorEnvelope
from contracts.model import Contract
from llama_orch.connection import Connection
from llama_orch.failures import CommandFailure, Failed, Refused, Unreachable, UsageMistake
from llama_orch.output import duration

M = TypeVar("M", bound=Contract)

CALL_DEADLINE_S = 30.0
CONNECT_DEADLINE_S = 5.0
# A stream is silent for one keep-alive interval at most; past this it is dead.
STREAM_SILENCE_S = 60.0
ANSWER_BYTES_MAX = 256 * 2**20


class Api:
    """One orchestratord, over one connection pool; an async context manager."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        headers = {"accept": "application/json"}
        if connection.token is not None:
            headers["authorization"] = f"Bearer {connection.token.reveal()}"
        try:
            self._client = httpx2.AsyncClient(
                base_url=connection.url,
                headers=headers,
                timeout=httpx2.Timeout(CALL_DEADLINE_S, connect=CONNECT_DEADLINE_S),
                trust_env=False,
            )
        except httpx2.InvalidURL as error:
            raise UsageMistake(f"--url {connection.url}: {error}") from None
        if self._client.base_url.scheme not in ("http", "https") or not self._client.base_url.host:
            raise UsageMistake(f"--url {connection.url}: it must look like http://127.0.0.1:8700")

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def get(self, path: str, model: type[M], params: Mapping[str, str] | None = None) -> M:
        """GET `path`, read as `model`.

        Raises:
            Unreachable: nobody answers, or not in time.
            Refused: the server answered with an error.
            Failed: the answer is not what this version speaks.
        """
        return self._read(await self._call("GET", path, params=params), model)

    async def probe(self, path: str) -> None:
        """GET `path` for its status only; raises as `get`."""
        await self._call("GET", path)

    async def post(self, path: str, body: Contract | None = None) -> bytes:
        """POST `path`, the raw answer; raises as `get`."""
        content = None if body is None else body.model_dump_json().encode()
        return await self._call("POST", path, content=content)

    async def post_for(self, path: str, body: Contract | None, model: type[M]) -> M:
        """POST `path`, read as `model`; raises as `get`."""
        return self._read(await self.post(path, body), model)

    async def put_for(self, path: str, body: Contract, model: type[M]) -> M:
        """PUT to `path` the fields of `body` that were set, read as `model`; raises as `get`."""
        content = body.model_dump_json(exclude_unset=True).encode()
        return self._read(await self._call("PUT", path, content=content), model)

    async def delete(self, path: str) -> None:
        """DELETE `path`; raises as `get`."""
        await self._call("DELETE", path)

    def stream(self, path: str, last_event_id: int) -> AbstractAsyncContextManager[httpx2.Response]:
        """Open the event stream at `path` after `last_event_id`; raises as `get`.

        Reading it may still raise `httpx2.RequestError`.
        """
        headers = {"accept": "text/event-stream"}
        if last_event_id:
            headers["last-event-id"] = str(last_event_id)
        patience = httpx2.Timeout(CALL_DEADLINE_S, read=STREAM_SILENCE_S)
        return self._open("GET", path, headers=headers, patience=patience)

    def text(
        self, path: str, params: Mapping[str, str]
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        """Open a text that may grow for ever, with pauses of any length; raises as `get`.

        Reading it may still raise `httpx2.RequestError`.
        """
        patience = httpx2.Timeout(CALL_DEADLINE_S, connect=CONNECT_DEADLINE_S, read=None)
        headers = {"accept": "text/plain"}
        return self._open("GET", path, headers=headers, params=params, patience=patience)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        headers = {"content-type": "application/json"} if content is not None else {}
        try:
            with anyio.fail_after(CALL_DEADLINE_S):
                async with self._open(
                    method, path, content=content, params=params, headers=headers
                ) as response:
                    return await _body(response)
        except TimeoutError:
            raise self._unreachable(f"no answer within {CALL_DEADLINE_S:.0f} s") from None
        except httpx2.RequestError as error:
            raise self._unreachable(_reason(error)) from None

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        patience: httpx2.Timeout | None = None,
    ) -> AsyncGenerator[httpx2.Response, None]:
        """An answer that is a success; a refusal has been raised otherwise."""
        request = self._client.build_request(
            method, path, headers=headers, content=content, params=params
        )
        if patience is not None:
            request.extensions["timeout"] = patience.as_dict()
        try:
            response = await self._client.send(request, stream=True)
        except httpx2.RequestError as error:
            raise self._unreachable(_reason(error)) from None
        try:
            if not response.is_success:
                raise await self._refusal(response)
            yield response
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await response.aclose()

    async def _refusal(self, response: httpx2.Response) -> CommandFailure:
        try:
            with anyio.fail_after(CALL_DEADLINE_S):
                envelope = ErrorEnvelope.model_validate_json(await _body(response))
        except (ValidationError, TimeoutError, httpx2.RequestError):
            return Refused(
                f"{self.connection.url} answered {response.status_code} in words that are not"
                " llama-orch's: check --url",
                status=response.status_code,
            )
        message = envelope.message
        if response.status_code == 401:
            message += f" (token tried: {self._token_tried()})"
        if envelope.retry_after_ms is not None:
            message += f" (try again in {duration(envelope.retry_after_ms)})"
        return Refused(
            f"{envelope.code}: {message}", status=response.status_code, envelope=envelope
        )

    def _token_tried(self) -> str:
        source = self.connection.token_source
        return source if self.connection.token is not None else f"none; {source} does not exist"

    def _unreachable(self, reason: str) -> Unreachable:
        return Unreachable(
            f"cannot reach {self.connection.daemon} at {self.connection.url}: {reason};"
            " start it with `llama-orch up`, or name another with --url"
        )

    def _read(self, body: bytes, model: type[M]) -> M:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the answer"
            raise Failed(
                f"{self.connection.url} answered something this version cannot read"
                f" ({where}: {first['msg']}): check --url, or use the same version on both sides"
            ) from None


async def _body(response: httpx2.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > ANSWER_BYTES_MAX:
            raise Failed(f"the answer is larger than {ANSWER_BYTES_MAX >> 20} MiB: check --url")
        parts.append(chunk)
    return b"".join(parts)


def _reason(error: httpx2.RequestError) -> str:
    if isinstance(error, httpx2.ConnectTimeout):
        return f"no connection within {CONNECT_DEADLINE_S:.0f} s"
    if isinstance(error, httpx2.ConnectError) and "attempts failed" in str(error):
        return "nothing listens there"
    return str(error) or type(error).__name__
