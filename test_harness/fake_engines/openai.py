"""A stand-in for any server of OpenAI's API, which tells nothing of itself but its model's name.

    python -m test_harness.fake_engines.openai --port P …

See `process.py` for its options.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from test_harness.fake_engines.dialect import Serving
from test_harness.fake_engines.openai_api import OpenAiApi
from test_harness.fake_engines.process import run


class OpenAi(OpenAiApi):
    """What the adapter asks of it."""

    name = "openai"
    key_variable = "OPENAI_API_KEY"
    open_paths = frozenset({"/health"})
    answers_while_loading = False

    def model(self, fake: Serving) -> dict[str, Any]:
        """Its name alone."""
        return {"id": fake.options.alias, "object": "model"}

    def cold(self, body: dict[str, Any]) -> bool:
        """There is no word for it."""
        return False

    def error(self, status: int, message: str) -> dict[str, Any]:
        """As OpenAI words them."""
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}

    def too_long(self, words: int, ctx: int) -> web.Response:
        """It has a code of its own."""
        message = f"This model's maximum context length is {ctx} tokens, not {words}."
        body = self.error(400, message)
        body["error"]["code"] = "context_length_exceeded"
        return web.json_response(body, status=400)


if __name__ == "__main__":
    run(OpenAi())
