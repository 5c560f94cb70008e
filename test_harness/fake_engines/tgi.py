"""A stand-in for Text Generation Inference: its dialect, with faults by name.

    python -m test_harness.fake_engines.tgi --port P …

See `process.py` for its options.  Written from the published API: no TGI was run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from test_harness.fake_engines.dialect import Asked, Dialect, Serving, Told, payload
from test_harness.fake_engines.process import run

CHAT = "chat"
ENDINGS = {"eos": "eos_token", "limit": "length"}
CHAT_ENDINGS = {"eos": "stop", "limit": "length"}
KINDS = {422: "validation", 424: "generation", 429: "overloaded", 503: "healthcheck"}
EVENT_STREAM = "text/event-stream"


class Tgi(Dialect):
    """What the adapter asks of the router."""

    name = "tgi"
    key_variable = "API_KEY"
    open_paths = frozenset({"/health", "/info", "/metrics", "/chat_tokenize"})
    generating_paths = frozenset({"/generate_stream", "/v1/chat/completions"})
    answers_while_loading = False

    def routes(self, fake: Serving) -> Iterable[web.RouteDef]:
        """Its routes."""
        answers = Answers(fake)
        return [
            web.get("/health", answers.health),
            web.get("/info", answers.info),
            web.get("/metrics", answers.metrics),
            web.post("/tokenize", answers.tokenize),
            web.post("/chat_tokenize", answers.chat_tokenize),
            web.post("/generate_stream", answers.generate),
            web.post("/v1/chat/completions", answers.chat),
        ]

    def progress(self, told: Told) -> None:
        """TGI tells nothing of a prompt under way."""
        return

    def token(self, told: Told, text: str) -> dict[str, Any]:
        """One event a token, without figures."""
        if told.form == CHAT:
            return _chunk([_choice(text)])
        return _event(told.sent + 1, text, special=False)

    def final(self, told: Told, ending: str) -> Sequence[bytes]:
        """The end token as a special one, with the figures; a chat's in chunks of their own."""
        if told.form == CHAT:
            usage = {"prompt_tokens": told.evaluated, "completion_tokens": told.sent}
            last = _chunk([_choice("", CHAT_ENDINGS[ending])])
            total = {"usage": usage | {"total_tokens": told.evaluated + told.sent}}
            return [payload(last), payload(_chunk([]) | total), b"[DONE]"]
        details = {
            "finish_reason": ENDINGS[ending],
            "generated_tokens": told.sent,
            "seed": None,
            "input_length": told.evaluated,
        }
        final = _event(told.sent + 1, "<|im_end|>", special=True)
        return [payload(final | {"generated_text": "", "details": details})]

    def error_event(self, message: str) -> Sequence[bytes]:
        """An error within a 200, as `/generate_stream` words it."""
        return [payload({"error": message, "error_type": "generation"})]

    def refusal(self, status: int, message: str) -> web.Response:
        """An answer that is no stream; 401 has no body."""
        if status == 401:
            return web.Response(status=401)
        if status not in KINDS:
            return web.Response(status=status, text=message)
        body = {"error": message, "error_type": KINDS[status]}
        return web.json_response(body, status=status)

    def too_long(self, words: int, ctx: int) -> web.Response:
        """Within a 200: a stream is answered before it is looked at."""
        message = (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <="
            f" {ctx}. Given: {words} `inputs` tokens and 1 `max_new_tokens`"
        )
        event = payload({"error": message, "error_type": "validation"})
        return web.Response(body=b"data:%s\n\n" % event, content_type=EVENT_STREAM)


class Answers:
    """The handlers of its routes."""

    def __init__(self, fake: Serving) -> None:
        self._fake = fake
        self._options = fake.options

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def info(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "model_id": self._options.alias,
                "model_sha": None,
                "max_concurrent_requests": self._options.slots,
                "max_input_tokens": self._options.ctx - 1,
                "max_total_tokens": self._options.ctx,
                "router": "text-generation-router",
                "version": "3.3.6-dev0",
                "sha": "db931fcf5a3c",
            }
        )

    async def metrics(self, _: web.Request) -> web.Response:
        figures = {
            "tgi_batch_current_size": sum(slot.busy for slot in self._fake.slots.all),
            "tgi_queue_size": self._fake.slots.waiting,
            'tgi_batch_inference_count{method="decode"}': self._fake.engine.sent,
        }
        return web.Response(text="".join(f"{name} {value}\n" for name, value in figures.items()))

    async def tokenize(self, request: web.Request) -> web.Response:
        return web.json_response(_pieces((await request.json())["inputs"]))

    async def chat_tokenize(self, request: web.Request) -> web.Response:
        text = _rendered((await request.json())["messages"])
        return web.json_response({"tokenize_response": _pieces(text), "templated_text": text})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        most = int(body["parameters"]["max_new_tokens"])
        return await self._fake.generate(request, Asked(str(body["inputs"]), most))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        asked = Asked(_rendered(body["messages"]), int(body["max_tokens"]), form=CHAT)
        return await self._fake.generate(request, asked)


def _event(index: int, text: str, *, special: bool) -> dict[str, Any]:
    token = {"id": index, "text": text, "logprob": -0.5, "special": special}
    return {"index": index, "token": token, "generated_text": None, "details": None}


def _choice(text: str, reason: str | None = None) -> dict[str, Any]:
    delta = {"role": "assistant", "content": text}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _chunk(choices: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"object": "chat.completion.chunk", "id": "", "created": 0, "model": "tgi"}
    return head | {"system_fingerprint": "3.3.6-dev0", "choices": choices, "usage": None}


def _pieces(text: str) -> list[dict[str, Any]]:
    return [{"id": i, "text": word, "start": 0, "stop": 0} for i, word in enumerate(text.split())]


def _rendered(messages: list[dict[str, str]]) -> str:
    turns = [f"<|{message['role']}|>\n{message['content']}\n" for message in messages]
    return "".join([*turns, "<|assistant|>\n"])


if __name__ == "__main__":
    run(Tgi())
