"""A stand-in for llama-server: its dialect, without a model, with faults by name.

    python -m test_harness.fake_engines.llamacpp --port P [--slots N] [--ctx N]
        [--token-ms MS] [--tokens N] [--fault NAME]...

Tokens are ` w0 w1 w2 …`, one every `--token-ms`, `--tokens` at most.  The API key
comes from `--api-key` or `LLAMA_API_KEY`; without one every key is taken.

Faults (several may be given):

ignore-term      SIGTERM does nothing
slow-start-MS    answers 503 "Loading model" for so long
silent-start     opens no port, for ever
die-at-start     ends with exit code 3 before it listens
die-after-N      ends with exit code 3 once N tokens were sent, over all streams
crash-after-N    the same with SIGSEGV
deaf-after-N     closes its port once N tokens were sent, and lives on
hang-after-N     sends N tokens of a stream, then nothing, for ever
wrong-identity   takes every key, as a stranger's server would
grandchild       starts a child in its group that ignores SIGTERM and never ends
log-flood        writes to stdout and stderr as fast as it can
bad-model, out-of-memory, bad-argument, port-taken
                 ends at once, with the words llama-server has for it
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from aiohttp import web

LAST_WORDS = {
    "bad-model": "llama_model_load: bad magic\nsrv: exiting due to model loading error",
    "out-of-memory": "cudaMalloc failed: out of memory\ncommon_init: failed to load model 'm'",
    "bad-argument": "error: invalid argument: --no-such-flag",
    "port-taken": "start: couldn't bind HTTP server socket, hostname: 127.0.0.1",
}
EXIT_DIED = 3
GRANDCHILD = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


@dataclass
class Faults:
    """Which faults are on; a number follows the name where it takes one."""

    names: set[str] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, given: list[str]) -> Faults:
        """`["ignore-term", "die-after-5"]` as faults."""
        faults = cls()
        for text in given:
            numbered = re.fullmatch(r"(.+)-(\d+)", text)
            if numbered:
                faults.numbers[numbered[1]] = int(numbered[2])
            else:
                faults.names.add(text)
        return faults


class FakeEngine:
    """One server; `busy` has an entry for each slot."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.faults = Faults.parse(options.fault)
        self.loaded_at = time.monotonic() + self.faults.numbers.get("slow-start", 0) / 1000
        self.api_key = options.api_key or os.environ.get("LLAMA_API_KEY")
        self.busy: list[bool] = [False] * options.slots
        self.free = asyncio.Semaphore(options.slots)
        self.sent = 0
        self.deferred = 0
        self.deaf = asyncio.Event()

    def app(self) -> web.Application:
        """The routes of llama-server that an adapter uses."""
        app = web.Application(middlewares=[self._guard])
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
        if time.monotonic() < self.loaded_at:
            return _error(503, "Loading model", "unavailable_error")
        if request.path != "/health" and not self._may(request):
            return _error(401, "Invalid API Key", "authentication_error")
        response: web.StreamResponse = await handler(request)
        return response

    def _may(self, request: web.Request) -> bool:
        if self.api_key is None or "wrong-identity" in self.faults.names:
            return True
        return request.headers.get("Authorization") == f"Bearer {self.api_key}"

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def props(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "default_generation_settings": {"n_ctx": self.options.ctx, "params": {}},
                "total_slots": self.options.slots,
                "model_alias": self.options.alias,
                "build_info": "fake-1",
            }
        )

    async def slots(self, _: web.Request) -> web.Response:
        rows = [
            {"id": slot, "n_ctx": self.options.ctx, "speculative": False, "is_processing": busy}
            for slot, busy in enumerate(self.busy)
        ]
        return web.json_response(rows)

    async def metrics(self, _: web.Request) -> web.Response:
        figures = {
            "tokens_predicted_total": self.sent,
            "requests_processing": sum(self.busy),
            "requests_deferred": self.deferred,
        }
        lines = [f"llamacpp:{name} {value}\n" for name, value in figures.items()]
        return web.Response(text="".join(lines))

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.options.alias}]})

    async def tokenize(self, request: web.Request) -> web.Response:
        words = (await request.json())["content"].split()
        return web.json_response({"tokens": list(range(len(words)))})

    async def apply_template(self, request: web.Request) -> web.Response:
        messages = (await request.json())["messages"]
        turns = [f"<|{message['role']}|>{message['content']}" for message in messages]
        return web.json_response({"prompt": "\n".join([*turns, "<|assistant|>"])})

    async def completion(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        tokens_in = len(str(body.get("prompt", "")).split())
        if tokens_in >= self.options.ctx:
            message = (
                f"request ({tokens_in} tokens) exceeds the available context size"
                f" ({self.options.ctx} tokens), try increasing it"
            )
            return _error(400, message, "exceed_context_size_error")
        self.deferred += 1
        async with self.free:
            self.deferred -= 1
            slot = self.busy.index(False)
            self.busy[slot] = True
            try:
                return await self._stream(request, body, slot, tokens_in)
            finally:
                self.busy[slot] = False

    async def _stream(
        self, request: web.Request, body: dict[str, Any], slot: int, tokens_in: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        wanted = int(body.get("n_predict", -1))
        count = self.options.tokens if wanted < 0 else min(wanted, self.options.tokens)
        for index in range(count):
            await self._before_token(index)
            await asyncio.sleep(self.options.token_ms / 1000)
            self.sent += 1
            if self.sent >= self.faults.numbers.get("deaf-after", sys.maxsize):
                self.deaf.set()
            await response.write(
                _event({"index": 0, "content": f" w{index}", "tokens": [index], "stop": False})
            )
        final = {
            "index": 0,
            "content": "",
            "tokens": [],
            "id_slot": slot,
            "stop": True,
            "stop_type": "limit" if count == wanted else "eos",
            "tokens_predicted": count,
            "tokens_evaluated": tokens_in,
            "timings": {"cache_n": 0},
        }
        await response.write(_event(final))
        await response.write_eof()
        return response

    async def _before_token(self, index: int) -> None:
        numbers = self.faults.numbers
        if self.sent >= numbers.get("die-after", sys.maxsize):
            os._exit(EXIT_DIED)
        if self.sent >= numbers.get("crash-after", sys.maxsize):
            os.kill(os.getpid(), signal.SIGSEGV)
        if index >= numbers.get("hang-after", sys.maxsize):
            await asyncio.Event().wait()


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _error(status: int, message: str, kind: str) -> web.Response:
    body = {"error": {"code": status, "message": message, "type": kind}}
    return web.json_response(body, status=status)


def main() -> None:
    """Serve until SIGTERM, or as the faults have it."""
    options = _parser().parse_args()
    names = Faults.parse(options.fault).names
    _die_at_once(names)
    if "grandchild" in names:
        child = subprocess.Popen([sys.executable, "-c", GRANDCHILD])
        Path(options.pid_file or os.devnull).write_text(str(child.pid))
    if "log-flood" in names:
        threading.Thread(target=_flood, daemon=True).start()
    if "silent-start" in names:
        threading.Event().wait()
    asyncio.run(_serve(options, ignore_term="ignore-term" in names))


async def _serve(options: argparse.Namespace, *, ignore_term: bool) -> None:
    stopping = asyncio.Event()
    on_term = (lambda: None) if ignore_term else stopping.set
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_term)
    engine = FakeEngine(options)
    runner = web.AppRunner(engine.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port)
    await site.start()
    deafness = asyncio.create_task(_go_deaf(engine, site))
    await stopping.wait()
    deafness.cancel()
    # As llama-server does: open streams are cut, not finished.
    os._exit(0)


async def _go_deaf(engine: FakeEngine, site: web.TCPSite) -> None:
    await engine.deaf.wait()
    await site.stop()


def _die_at_once(names: set[str]) -> None:
    for name, words in LAST_WORDS.items():
        if name in names:
            _end(words, 1)
    if "die-at-start" in names:
        _end("a fault of this test: die-at-start", EXIT_DIED)


def _end(words: str, code: int) -> NoReturn:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()
    os._exit(code)


def _flood() -> None:
    line = b"x" * 1023 + b"\n"
    while True:
        os.write(1, line)
        os.write(2, line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m test_harness.fake_engines.llamacpp")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key")
    parser.add_argument("--alias", default="fake")
    parser.add_argument("--ctx", type=int, default=4096, help="tokens of context per slot")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--token-ms", type=float, default=1.0)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="most tokens of a stream")
    parser.add_argument("--fault", action="append", default=[])
    parser.add_argument("--pid-file", help="where `grandchild` writes its pid")
    return parser


if __name__ == "__main__":
    main()
