"""A stand-in for a Triton server with a text model: its dialect, with faults by name.

    python -m test_harness.fake_engines.triton --port P …

See `process.py` for its options.  It answers no metrics: those have a port of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from test_harness.fake_engines.dialect import Asked, Dialect, Serving, Told, payload
from test_harness.fake_engines.process import run

EVENT_STREAM = "text/event-stream"
COUNTS = ("num_input_tokens", "num_output_tokens")
INPUTS = ("text_input", "max_tokens", "temperature", "random_seed", "return_num_input_tokens")


class Triton(Dialect):
    """What the adapter asks of tritonserver."""

    name = "triton"
    key_variable = None
    open_paths = frozenset({"/v2/health/live", "/v2/health/ready"})
    generating_paths = frozenset({"/v2/models/{model}/generate_stream"})
    answers_while_loading = False

    def routes(self, fake: Serving) -> Iterable[web.RouteDef]:
        """Its routes."""
        answers = Answers(fake)
        return [
            web.get("/v2", answers.server),
            web.get("/v2/health/ready", answers.ready),
            web.post("/v2/repository/index", answers.index),
            web.get("/v2/models/{model}", answers.model),
            web.get("/v2/models/{model}/config", answers.config),
            web.post("/v2/models/{model}/generate_stream", answers.generate),
        ]

    def progress(self, told: Told) -> None:
        """Triton tells nothing of a prompt under way."""
        return

    def token(self, told: Told, text: str) -> dict[str, Any]:
        """One event a token, with the counts that were asked for."""
        event: dict[str, Any] = {"model_name": "m", "model_version": "1", "text_output": text}
        return event | {"num_input_tokens": told.evaluated, "num_output_tokens": 1}

    def final(self, told: Told, ending: str) -> Sequence[bytes]:
        """Nothing: the stream ends with its body."""
        return ()

    def error_event(self, message: str) -> Sequence[bytes]:
        """An error within a 200."""
        return [payload({"error": message})]

    def refusal(self, status: int, message: str) -> web.Response:
        """The server's own."""
        return web.json_response({"error": message}, status=status)

    def too_long(self, words: int, ctx: int) -> web.Response:
        """The model's own, as its first response: an event under 400."""
        message = f"Prompt length ({words}) exceeds maximum input length ({ctx})."
        body = b"data: %s\n\n" % payload({"error": message})
        return web.Response(body=body, status=400, content_type=EVENT_STREAM)


class Answers:
    """The handlers of its routes."""

    def __init__(self, fake: Serving) -> None:
        self._fake = fake
        self._options = fake.options

    async def server(self, _: web.Request) -> web.Response:
        return web.json_response({"name": "triton", "version": "2.51.0", "extensions": []})

    async def ready(self, _: web.Request) -> web.Response:
        return web.Response()

    async def index(self, _: web.Request) -> web.Response:
        served = {"name": self._options.alias, "version": "1", "state": "READY"}
        return web.json_response([{"name": "not-loaded"}, served])

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name != self._options.alias:
            return _unknown(name)
        inputs = [{"name": given, "datatype": "BYTES", "shape": [1]} for given in INPUTS]
        outputs = [{"name": "text_output", "datatype": "BYTES", "shape": [1]}]
        outputs += [{"name": count, "datatype": "UINT32", "shape": [1]} for count in COUNTS]
        described = {"name": name, "versions": ["1"], "platform": "python"}
        return web.json_response(described | {"inputs": inputs, "outputs": outputs})

    async def config(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "name": request.match_info["model"],
                "backend": "python",
                "max_batch_size": 0,
                "instance_group": [{"name": "m_0", "count": self._options.slots}],
                "parameters": {"max_seq_len": {"string_value": str(self._options.ctx)}},
            }
        )

    async def generate(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["model"]
        if name != self._options.alias:
            return _unknown(name)
        body = await request.json()
        most = int(body.get("max_tokens", 16))
        return await self._fake.generate(request, Asked(str(body["text_input"]), most))


def _unknown(name: str) -> web.Response:
    message = f"Request for unknown model: '{name}' is not found"
    return web.json_response({"error": message}, status=404)


if __name__ == "__main__":
    run(Triton())
