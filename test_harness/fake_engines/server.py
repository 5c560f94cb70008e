"""The routes of llama-server that an adapter uses, without a model behind them."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from test_harness.fake_engines.attempts_log import Attempt, AttemptsLog
from test_harness.fake_engines.faults import Faults
from test_harness.fake_engines.generation import EXIT_DIED, POISON, Ask, Engine, Generation
from test_harness.fake_engines.slots import Slots

BODY_BYTES = 64 * 1024 * 1024
PAGE = "<!doctype html><title>Welcome</title><p>This is not an engine.</p>"


class FakeEngine:
    """One server."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.engine = Engine(options)
        self._options = options
        self._faults = Faults.named(options.fault)
        self._loaded_at = time.monotonic() + self._faults.get("slow-start", 0) / 1000
        self._api_key = options.api_key or os.environ.get("LLAMA_API_KEY")
        self._slots = Slots(options.slots)
        self._log = AttemptsLog(Path(options.attempts_log) if options.attempts_log else None)

    def app(self) -> web.Application:
        """Everything it answers."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES)
        app.router.add_get("/health", self.health)
        app.router.add_get("/props", self.props)
        app.router.add_get("/slots", self.slots)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/apply-template", self.apply_template)
        app.router.add_post("/completion", self.completion)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if time.monotonic() < self._loaded_at:
            return _error(503, "Loading model", "unavailable_error")
        if request.path != "/health" and not self._may(request):
            return _error(401, "Invalid API Key", "authentication_error")
        if request.path != "/completion" and "stall-health" in self._faults:
            await self.engine.prefilled.wait()
        response: web.StreamResponse = await handler(request)
        return response

    def _may(self, request: web.Request) -> bool:
        if self._api_key is None or "wrong-identity" in self._faults:
            return True
        return request.headers.get("Authorization") == f"Bearer {self._api_key}"

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def props(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "default_generation_settings": {"n_ctx": self._options.ctx, "params": {}},
                "total_slots": self._options.slots,
                "model_alias": self._options.alias,
                "build_info": "fake-1",
            }
        )

    async def slots(self, _: web.Request) -> web.Response:
        rows = [
            {
                "id": slot.number,
                "n_ctx": self._options.ctx,
                "speculative": False,
                "is_processing": slot.busy,
                # What was taken up and said: it stands still while the slot does.
                "n_prompt_tokens_processed": len(slot.words),
            }
            for slot in self._slots.all
        ]
        return web.json_response(rows)

    async def metrics(self, _: web.Request) -> web.Response:
        figures = {
            "tokens_predicted_total": self.engine.sent,
            "requests_processing": sum(slot.busy for slot in self._slots.all),
            "requests_deferred": self._slots.waiting,
        }
        lines = [f"llamacpp:{name} {value}\n" for name, value in figures.items()]
        return web.Response(text="".join(lines))

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self._options.alias}]})

    async def tokenize(self, request: web.Request) -> web.Response:
        words = (await request.json())["content"].split()
        return web.json_response({"tokens": list(range(len(words)))})

    async def apply_template(self, request: web.Request) -> web.Response:
        messages = (await request.json())["messages"]
        turns = [f"<|{message['role']}|>\n{message['content']}\n" for message in messages]
        return web.json_response({"prompt": "".join([*turns, "<|assistant|>\n"])})

    async def completion(self, request: web.Request) -> web.StreamResponse:
        try:
            ask = Ask.read(await request.json(), self._options, self._faults)
        except ValueError as error:
            return _error(400, str(error), "invalid_request_error")
        attempt = Attempt(request.headers.get("X-Correlation-Id"), ask.slot)
        self._log.begin(attempt)
        try:
            return await self._complete(request, ask, attempt)
        finally:
            self._log.end(attempt)

    async def _complete(
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
        async with self._slots.taken(ask.slot, ask.words) as slot:
            attempt.slot = slot.number
            return await Generation(self.engine, ask, slot, attempt).run(request)

    def _refusal(self, ask: Ask) -> web.Response | None:
        """An answer that is no stream, where there is a reason for one."""
        if "html" in ask.faults:
            return web.Response(text=PAGE, content_type="text/html")
        if "status" in ask.faults:
            return _error(ask.faults["status"], "as it was told", "server_error")
        if len(ask.words) < self._options.ctx:
            return None
        message = (
            f"request ({len(ask.words)} tokens) exceeds the available context size"
            f" ({self._options.ctx} tokens), try increasing it"
        )
        return _error(400, message, "exceed_context_size_error")


def _error(status: int, message: str, kind: str) -> web.Response:
    body = {"error": {"code": status, "message": message, "type": kind}}
    headers = {"Retry-After": "1"} if kind == "server_error" else {}
    return web.json_response(body, status=status, headers=headers)
