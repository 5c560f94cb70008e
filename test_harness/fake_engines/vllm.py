"""A stand-in for vLLM: its dialect, without a model, with faults by name.

    python -m test_harness.fake_engines.vllm --port P …

See `process.py` for its options.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from test_harness.fake_engines.dialect import Serving, Told
from test_harness.fake_engines.openai_api import OpenAiApi, rendered
from test_harness.fake_engines.process import run

KINDS = {400: "BadRequestError", 404: "NotFoundError", 503: "Service Unavailable"}


class Vllm(OpenAiApi):
    """What the adapter asks of vLLM 0.32."""

    name = "vllm"
    key_variable = "VLLM_API_KEY"
    open_paths = frozenset({"/health", "/version", "/metrics", "/tokenize"})
    answers_while_loading = False

    def routes(self, fake: Serving) -> Iterable[web.RouteDef]:
        """Its routes: only those under `/v1` are guarded."""
        answers = VllmAnswers(fake)
        return [
            *super().routes(fake),
            web.get("/health", answers.health),
            web.get("/version", answers.version),
            web.get("/metrics", answers.metrics),
            web.post("/tokenize", answers.tokenize),
        ]

    def model(self, fake: Serving) -> dict[str, Any]:
        """With the context that it really serves."""
        return {"id": fake.options.alias, "max_model_len": fake.options.ctx}

    def cold(self, body: dict[str, Any]) -> bool:
        """A salt of its own finds nothing."""
        return "cache_salt" in body

    def token(self, told: Told, text: str) -> dict[str, Any]:
        """With the figures so far, as `continuous_usage_stats` asks."""
        usage = {"prompt_tokens": told.words_in, "completion_tokens": told.sent + 1}
        return super().token(told, text) | {"usage": usage}

    def usage(self, told: Told) -> dict[str, Any]:
        """And what was cached."""
        return super().usage(told) | {"prompt_tokens_details": {"cached_tokens": told.cached}}

    def error(self, status: int, message: str) -> dict[str, Any]:
        """As vLLM words them."""
        if status == 401:
            return {"error": "Unauthorized"}
        kind = KINDS.get(status, "InternalServerError")
        return {"error": {"message": message, "type": kind, "param": None, "code": status}}

    def too_long(self, words: int, ctx: int) -> web.Response:
        """It names the parameter."""
        message = (
            f"This model's maximum context length is {ctx} tokens. However, your prompt contains"
            f" at least {words} input tokens. (parameter=input_tokens, value={words})"
        )
        body = self.error(400, message)
        body["error"]["param"] = "input_tokens"
        return web.json_response(body, status=400)


class VllmAnswers:
    """The handlers of what only vLLM has."""

    def __init__(self, fake: Serving) -> None:
        self._fake = fake

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt = rendered(body["messages"]) if "messages" in body else body["prompt"]
        return web.json_response({"count": len(prompt.split()), "tokens": []})

    async def metrics(self, _: web.Request) -> web.Response:
        slots = self._fake.slots
        busy = sum(slot.busy for slot in slots.all)
        held = sum(len(slot.words) for slot in slots.all)
        figures = {
            "num_requests_running": busy,
            "num_requests_waiting": slots.waiting,
            "kv_cache_usage_perc": busy / len(slots.all),
            "num_preemptions_total": 0,
            "iteration_tokens_total_sum": self._fake.engine.sent + held,
        }
        labels = '{engine="0",model_name="fake"}'
        lines = [f"vllm:{name}{labels} {value}\n" for name, value in figures.items()]
        return web.Response(text="".join(lines))


if __name__ == "__main__":
    run(Vllm())
