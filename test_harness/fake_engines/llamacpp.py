"""A stand-in for llama-server: its dialect, without a model, with faults by name.

    python -m test_harness.fake_engines.llamacpp --port P …

See `process.py` for its options.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from test_harness.fake_engines.dialect import Asked, Dialect, Serving, Told, payload
from test_harness.fake_engines.process import run

KINDS = {400: "invalid_request_error", 401: "authentication_error", 503: "unavailable_error"}


class LlamaCpp(Dialect):
    """What the adapter asks of llama-server."""

    name = "llamacpp"
    key_variable = "LLAMA_API_KEY"
    open_paths = frozenset({"/health"})
    generating_paths = frozenset({"/completion"})
    answers_while_loading = True

    def routes(self, fake: Serving) -> Iterable[web.RouteDef]:
        """Its routes."""
        answers = Answers(self, fake)
        return [
            web.get("/health", answers.health),
            web.get("/props", answers.props),
            web.get("/slots", answers.slots),
            web.get("/metrics", answers.metrics),
            web.get("/v1/models", answers.models),
            web.post("/tokenize", answers.tokenize),
            web.post("/apply-template", answers.apply_template),
            web.post("/completion", answers.completion),
        ]

    def progress(self, told: Told) -> dict[str, Any]:
        """With a token that is none."""
        figures = {
            "total": told.words_in,
            "cache": told.cached,
            "processed": told.processed,
            "time_ms": round(told.prompt_ms),
        }
        return _part(told, "", 0, 0) | {"prompt_progress": figures}

    def token(self, told: Told, text: str) -> dict[str, Any]:
        """One event a token."""
        return _part(told, text, told.sent, told.sent + 1)

    def final(self, told: Told, ending: str) -> Sequence[bytes]:
        """One event with all figures, and no `[DONE]`."""
        final = {
            "index": 0,
            "content": "",
            "tokens": [],
            "id_slot": told.slot,
            "stop": True,
            "stop_type": ending,
            "tokens_predicted": told.sent,
            "tokens_evaluated": told.evaluated,
            "timings": {
                "cache_n": told.cached,
                "prompt_n": told.words_in - told.cached,
                "prompt_ms": told.prompt_ms,
                "predicted_n": told.sent,
            },
        }
        return [payload(final)]

    def error_event(self, message: str) -> Sequence[bytes]:
        """An error within a 200."""
        return [payload(_error(500, message, "server_error"))]

    def refusal(self, status: int, message: str) -> web.Response:
        """As llama-server words them."""
        kind = KINDS.get(status, "server_error")
        return web.json_response(_error(status, message, kind), status=status)

    def too_long(self, words: int, ctx: int) -> web.Response:
        """Of the size of the context a type of its own."""
        message = (
            f"request ({words} tokens) exceeds the available context size"
            f" ({ctx} tokens), try increasing it"
        )
        return web.json_response(_error(400, message, "exceed_context_size_error"), status=400)


class Answers:
    """The handlers of its routes."""

    def __init__(self, dialect: LlamaCpp, fake: Serving) -> None:
        self._dialect = dialect
        self._fake = fake
        self._options = fake.options

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
            for slot in self._fake.slots.all
        ]
        return web.json_response(rows)

    async def metrics(self, _: web.Request) -> web.Response:
        figures = {
            "tokens_predicted_total": self._fake.engine.sent,
            "requests_processing": sum(slot.busy for slot in self._fake.slots.all),
            "requests_deferred": self._fake.slots.waiting,
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
        body = await request.json()
        asked = Asked(
            prompt=str(body.get("prompt", "")),
            most=int(body.get("n_predict", -1)),
            slot=body.get("id_slot"),
            cache_prompt=bool(body.get("cache_prompt", True)),
            progress=bool(body.get("return_progress")),
        )
        return await self._fake.generate(request, asked)


def _part(told: Told, text: str, token: int, predicted: int) -> dict[str, Any]:
    return {
        "index": 0,
        "content": text,
        "tokens": [token],
        "stop": False,
        "id_slot": -1,
        "tokens_predicted": predicted,
        "tokens_evaluated": told.words_in,
    }


def _error(status: int, message: str, kind: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "type": kind}}


if __name__ == "__main__":
    run(LlamaCpp())
