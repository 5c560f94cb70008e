"""What stand-ins of vLLM and of any other server of OpenAI's API have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from test_harness.fake_engines.dialect import Asked, Dialect, Serving, Told, payload

CHAT = "chat"
COMPLETION = "completion"
DONE = b"[DONE]"
FINISH = {"eos": "stop", "limit": "length"}


class OpenAiApi(Dialect):
    """The routes under `/v1`, their events and their end."""

    generating_paths = frozenset({"/v1/completions", "/v1/chat/completions"})

    def routes(self, fake: Serving) -> Iterable[web.RouteDef]:
        """Its routes."""
        answers = Answers(self, fake)
        return [
            web.get("/v1/models", answers.models),
            web.post("/v1/completions", answers.completion),
            web.post("/v1/chat/completions", answers.chat),
        ]

    @abstractmethod
    def model(self, fake: Serving) -> dict[str, Any]:
        """The one entry of its model list."""

    @abstractmethod
    def cold(self, body: dict[str, Any]) -> bool:
        """Whether a request forbids the cache."""

    def progress(self, told: Told) -> dict[str, Any] | None:
        """It tells of none; a chat begins with the role of the speaker."""
        if told.form != CHAT or told.processed < told.words_in:
            return None
        return self._chunk(told, {"role": "assistant", "content": ""}, None)

    def token(self, told: Told, text: str) -> dict[str, Any]:
        """A chunk a token."""
        return self._chunk(told, text, None)

    def final(self, told: Told, ending: str) -> Sequence[bytes]:
        """Why it ended, its figures, and `[DONE]`."""
        last = self._chunk(told, "", FINISH[ending])
        figures = self._chunk(told, "", None) | {"choices": [], "usage": self.usage(told)}
        return [payload(last), payload(figures), DONE]

    def error_event(self, message: str) -> Sequence[bytes]:
        """An error within a 200, and `[DONE]` after it."""
        return [payload(self.error(500, message)), DONE]

    def refusal(self, status: int, message: str) -> web.Response:
        """Any answer that is no success."""
        return web.json_response(self.error(status, message), status=status)

    @abstractmethod
    def error(self, status: int, message: str) -> dict[str, Any]:
        """The body of a refusal."""

    def usage(self, told: Told) -> dict[str, Any]:
        """The figures at the end."""
        return _usage(told, told.evaluated)

    def _chunk(
        self, told: Told, said: str | dict[str, str], finish_reason: str | None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        if told.form == CHAT:
            choice["delta"] = {"content": said} if isinstance(said, str) else said
        else:
            choice["text"] = said
        kind = "chat.completion.chunk" if told.form == CHAT else "text_completion"
        return {"id": "fake-1", "object": kind, "created": 1, "model": "m", "choices": [choice]}


class Answers:
    """The handlers of its routes."""

    def __init__(self, dialect: OpenAiApi, fake: Serving) -> None:
        self._dialect = dialect
        self._fake = fake

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._dialect.model(self._fake)]})

    async def completion(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body.get("prompt"):
            return self._dialect.refusal(400, "`prompt` is missing")
        return await self._generate(request, body, str(body["prompt"]), COMPLETION)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body.get("messages"):
            return self._dialect.refusal(400, "`messages` is missing")
        return await self._generate(request, body, rendered(body["messages"]), CHAT)

    async def _generate(
        self, request: web.Request, body: dict[str, Any], prompt: str, form: str
    ) -> web.StreamResponse:
        if not body.get("stream"):
            return self._dialect.refusal(400, "this stand-in only streams")
        if not (body.get("stream_options") or {}).get("include_usage"):
            return self._dialect.refusal(400, "this stand-in always tells its figures")
        asked = Asked(
            prompt=prompt,
            most=int(body.get("max_tokens", 16)),
            cache_prompt=not self._dialect.cold(body),
            progress=True,
            form=form,
        )
        return await self._fake.generate(request, asked)


def rendered(messages: Iterable[dict[str, str]]) -> str:
    """A chat in this stand-in's own template."""
    turns = [f"<|{message['role']}|>\n{message['content']}\n" for message in messages]
    return "".join([*turns, "<|assistant|>\n"])


def _usage(told: Told, words_in: int) -> dict[str, Any]:
    return {
        "prompt_tokens": words_in,
        "completion_tokens": told.sent,
        "total_tokens": words_in + told.sent,
    }
