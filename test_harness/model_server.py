"""A web server of models whose faults have names; on 127.0.0.1, at a port of its own."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from aiohttp import web

_RANGE = re.compile(r"bytes=([0-9]+)-")


@dataclass
class Seen:
    """One request it got."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class ModelServer:
    """Serves `files` by path.

    Attributes:
        faults: by path, names of what the next answers do wrong, one for each
            answer; the last one stays. `ok` is none.
        redirects: by path, where it sends to; `headers` go with every answer of a path.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    halves: anyio.Event = field(default_factory=anyio.Event)
    url: str = ""

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.partition("//")[2]

    def bodies(self, path: str) -> list[Seen]:
        """The GETs of a path."""
        return [seen for seen in self.seen if seen.method == "GET" and seen.path == path]

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[ModelServer]:
        """Listen for as long as the block lasts."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            port = runner.addresses[0][1]
            self.url = f"http{'s' if tls else ''}://127.0.0.1:{port}"
            yield self
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await runner.cleanup()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        path = request.raw_path.partition("?")[0]
        self.seen.append(Seen(request.method, path, dict(request.headers)))
        headers = self.headers.get(path, {})
        if path in self.statuses:
            return web.Response(status=self.statuses[path], headers=headers)
        if path in self.redirects:
            return web.Response(status=302, headers={**headers, "Location": self.redirects[path]})
        if path not in self.files:
            return web.Response(status=404)
        faults = self.faults.get(path, ["ok"])
        fault = faults.pop(0) if len(faults) > 1 else faults[0]
        return await self._body(request, path, fault, headers)

    async def _body(
        self, request: web.Request, path: str, fault: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        content = self.files[path]
        etag = self.etags.get(path)
        start = self._start(request, etag, fault)
        if fault == "no-such-range":
            return web.Response(status=416)
        body, status = content[start:], 206 if start else 200
        sent = {**headers, "Content-Length": str(len(body))}
        if etag is not None:
            sent["ETag"] = etag
        if start:
            sent["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if fault == "gzip":
            sent["Content-Encoding"] = "gzip"
        if fault == "longer":
            del sent["Content-Length"]
            body += b"more"
        if fault == "wrong":
            body = bytes(len(body))
        response = web.StreamResponse(status=status, headers=sent)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if fault in ("short", "stall"):
            await response.write(body[: len(body) // 2])
            self.halves.set()
            if fault == "stall":
                await anyio.sleep_forever()
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(body)
        return response

    def _start(self, request: web.Request, etag: str | None, fault: str) -> int:
        asked = _RANGE.fullmatch(request.headers.get("Range", ""))
        if asked is None or fault == "no-range":
            return 0
        condition = request.headers.get("If-Range")
        if condition is not None and condition != etag and fault != "ignores-if-range":
            return 0
        return int(asked[1])
