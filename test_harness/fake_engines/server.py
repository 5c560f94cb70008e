"""One stand-in engine behind its dialect: who may ask, which faults hold, what generates."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from test_harness.fake_engines.attempts_log import Attempt, AttemptsLog
from test_harness.fake_engines.dialect import Asked, Dialect
from test_harness.fake_engines.engine import Engine
from test_harness.fake_engines.faults import Faults
from test_harness.fake_engines.generation import EXIT_DIED, POISON, Ask, Generation
from test_harness.fake_engines.slots import Slots

BODY_BYTES = 64 * 1024 * 1024
PAGE = "<!doctype html><title>Welcome</title><p>This is not an engine.</p>"


class FakeEngine:
    """One server."""

    def __init__(self, dialect: Dialect, options: argparse.Namespace) -> None:
        self.engine = Engine(options)
        self.options = options
        self.slots = Slots(options.slots)
        self._dialect = dialect
        self._faults = Faults.named(options.fault)
        self._loaded_at = time.monotonic() + self._faults.get("slow-start", 0) / 1000
        self._api_key = options.api_key or os.environ.get(dialect.key_variable or "")
        self._log = AttemptsLog(Path(options.attempts_log) if options.attempts_log else None)

    def app(self) -> web.Application:
        """Everything it answers."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES)
        app.add_routes(self._dialect.routes(self))
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if time.monotonic() < self._loaded_at:
            return self._dialect.refusal(503, "Loading model")
        if request.path not in self._dialect.open_paths and not self._may(request):
            return self._dialect.refusal(401, "Invalid API Key")
        if request.path not in self._dialect.generating_paths and "stall-health" in self._faults:
            await self.engine.prefilled.wait()
        response: web.StreamResponse = await handler(request)
        return response

    def _may(self, request: web.Request) -> bool:
        if not self._api_key or "wrong-identity" in self._faults:
            return True
        return request.headers.get("Authorization") == f"Bearer {self._api_key}"

    async def generate(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        """Answer a generation, noted in the log of attempts."""
        try:
            ask = Ask.read(asked, self.options, self._faults)
        except ValueError as error:
            return self._dialect.refusal(400, str(error))
        attempt = Attempt(request.headers.get("X-Correlation-Id"), asked.slot)
        self._log.begin(attempt)
        try:
            return await self._generate(request, ask, attempt)
        finally:
            self._log.end(attempt)

    async def _generate(
        self, request: web.Request, ask: Ask, attempt: Attempt
    ) -> web.StreamResponse:
        if "poison" in ask.faults and POISON in ask.words:
            os._exit(EXIT_DIED)
        if "silent-after-accept" in ask.faults:
            await asyncio.Event().wait()
        refusal = self._refusal(ask)
        if refusal is not None:
            return refusal
        attempt.slot = None
        async with self.slots.taken(ask.asked.slot, ask.words) as slot:
            attempt.slot = slot.number
            return await Generation(self._dialect, self.engine, ask, slot, attempt).run(request)

    def _refusal(self, ask: Ask) -> web.Response | None:
        """An answer that is no stream, where there is a reason for one."""
        if "html" in ask.faults:
            return web.Response(text=PAGE, content_type="text/html")
        if "status" in ask.faults:
            answer = self._dialect.refusal(ask.faults["status"], "as it was told")
            answer.headers["Retry-After"] = "1"
            return answer
        if len(ask.words) < self.options.ctx:
            return None
        return self._dialect.too_long(len(ask.words), self.options.ctx)
