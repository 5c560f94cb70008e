"""Records what a running vLLM answers to our client's own requests, byte for byte.

But for the buckets of metrics and the path of the model, which are left out.

    python -m test_harness.conformance.record_vllm URL KEY [--kill PID]

Start it with a context of 512 tokens, without tool choice.  A file's name is the
status of the answer and what was asked: `400-too-long.json`, `200-chat.events`.
`--kill` ends this process, vLLM's engine core, in the middle of a last stream.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from contracts.tasks import Message
from worker_adapters.base import GenerationRequest
from worker_adapters.openai_dialect import generation_body
from worker_adapters.vllm import own_fields

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "vllm"
COMPLETIONS = "/v1/completions"
CHATS = "/v1/chat/completions"
BUCKET = re.compile(rb"(?m)^\w+:\w+_bucket\{.*\n")
"""Nine of ten lines of a page of metrics, and nobody reads them."""
ROOT = re.compile(rb'"root":"[^"]*"')
"""Where the model was on the machine that recorded."""


class Call(NamedTuple):
    """One request."""

    name: str
    path: str
    body: bytes
    method: str = "POST"


def calls() -> Iterator[Call]:
    """Everything that is recorded, in this order."""
    yield Call("models", "/v1/models", b"", "GET")
    yield Call("version", "/version", b"", "GET")
    yield Call("metrics", "/metrics", b"", "GET")
    yield Call("tokenize", "/tokenize", b'{"prompt":"The river"}')
    yield Call("completion", COMPLETIONS, _body(prompt="The river"))
    yield Call("stop-string", COMPLETIONS, _body(prompt="The river", max_tokens=40, stop=("a",)))
    yield Call("ended-by-itself", COMPLETIONS, _body(prompt="The river", max_tokens=400))
    chat = (Message(role="user", content="hello"),)
    yield Call("chat", CHATS, _body(messages=chat))
    digits = 'root ::= "7" [0-9] [0-9]'
    yield Call("grammar", COMPLETIONS, _body(prompt="The river", grammar=digits, max_tokens=9))
    for name in ("first", "again"):
        yield Call(f"long-{name}", COMPLETIONS, _body(prompt="the old stone bridge " * 40))
    yield from _refused()


def _refused() -> Iterator[Call]:
    """Every row of vLLM's refusals."""
    yield Call("not-json", COMPLETIONS, b"{bad")
    yield Call("unknown-model", COMPLETIONS, b'{"prompt":"x","model":"nope"}')
    yield Call("too-long", COMPLETIONS, _body(prompt="x " * 600))
    yield Call("chat-too-long", CHATS, _body(messages=(Message(role="user", content="x " * 600),)))
    yield Call("too-many-tokens", COMPLETIONS, _body(prompt="x", max_tokens=600))
    yield Call("wrong-type", COMPLETIONS, b'{"prompt":5}')
    yield Call("temperature", COMPLETIONS, _body(prompt="x", temperature=-1.0))
    yield Call("token-id", COMPLETIONS, b'{"prompt":[99999]}')
    yield Call("no-prompt", COMPLETIONS, b"{}")
    yield Call("empty-prompt", COMPLETIONS, b'{"prompt":""}')
    yield Call("bad-grammar", COMPLETIONS, _body(prompt="x", grammar="root ::= ((("))
    yield Call("bad-schema", COMPLETIONS, _body(prompt="x", json_schema={"type": "banana"}))
    five = tuple("abcde")
    yield Call("too-many-stops", COMPLETIONS, _body(prompt="x", stop=five))
    tool = b'"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"auto"'
    ask = b'{"messages":[{"role":"user","content":"x"}],"max_tokens":0,%s}' % tool
    yield Call("tools", CHATS, ask)
    yield Call("unknown-path", "/v1/embeddings", b"{}")
    yield Call("wrong-method", COMPLETIONS, b"{}", "PUT")


def _body(**fields: object) -> bytes:
    given: dict[str, object] = {"max_tokens": 5, "seed": 3, "correlation_id": "c"}
    request = GenerationRequest(**(given | fields))  # type: ignore[arg-type]
    return generation_body(request, own_fields(request))


class Recorder:
    """One engine."""

    def __init__(self, url: str, key: str) -> None:
        self._address = urlsplit(url).netloc
        self._key = key

    def record(self, call: Call, key: str | None = None) -> None:
        """Ask, and write the body down."""
        answer = self.ask(call, key)
        self.write(call.name, answer, answer.read())

    def ask(self, call: Call, key: str | None = None) -> http.client.HTTPResponse:
        """An answer whose body is not read yet."""
        connection = http.client.HTTPConnection(self._address, timeout=120)
        headers = {"Authorization": f"Bearer {key or self._key}"}
        headers["Content-Type"] = "application/json"
        connection.request(call.method, call.path, call.body or None, headers)
        return connection.getresponse()

    def write(self, name: str, answer: http.client.HTTPResponse, body: bytes) -> None:
        """Into the file that the status and the name give."""
        events = (answer.getheader("Content-Type") or "").startswith("text/event-stream")
        kind = "events" if events else "txt" if name == "metrics" else "json"
        body = BUCKET.sub(b"", body)
        body = ROOT.sub(b'"root":"/models/tiny"', body)
        (TRANSCRIPTS / f"{answer.status}-{name}.{kind}").write_bytes(body)

    def record_death(self, pid: int) -> None:
        """The stream of an engine whose core is killed after its first bytes."""
        call = Call("core-killed", COMPLETIONS, _body(prompt="The river", max_tokens=400))
        answer = self.ask(call)
        begun = answer.read1(65536)
        os.kill(pid, signal.SIGKILL)
        self.write(call.name, answer, begun + answer.read())
        models = Call("dead", COMPLETIONS, _body(prompt="The river"))
        self.record(models)


def main() -> None:
    """Record everything."""
    parser = argparse.ArgumentParser(prog="python -m test_harness.conformance.record_vllm")
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("--kill", type=int, metavar="PID")
    options = parser.parse_args()
    recorder = Recorder(options.url, options.key)
    for call in calls():
        recorder.record(call)
    recorder.record(Call("wrong-key", "/v1/models", b"", "GET"), key="another")
    if options.kill is not None:
        recorder.record_death(options.kill)


if __name__ == "__main__":
    main()
