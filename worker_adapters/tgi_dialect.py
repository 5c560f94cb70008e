"""What is said to and by Text Generation Inference: bodies, events and figures, without any I/O.

Only the fields read here are decoded; everything else is skipped.  The refusals
lie in `tgi_refusals`.  Source: the published API description of TGI 3.3.6-dev0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from contracts.engines import Feature
from contracts.tasks import SEED_MAX
from worker_adapters.answers import MALFORMED
from worker_adapters.base import Finished, GenerationRequest
from worker_adapters.errors import EngineProtocolError
from worker_adapters.tgi_refusals import chat_error, stream_error
from worker_adapters.wishes import refuse_beyond

ABSENT = msgspec.Raw(b"null")
INT32_MAX = 2**31 - 1
VERSION_CHARACTERS = 256
COMMIT_CHARACTERS = 12
SEED_FOR_ZERO = SEED_MAX + 1
"""TGI's seeds begin at 1; this one no request can have."""

Count = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]
Size = Annotated[int, msgspec.Meta(ge=1, le=INT32_MAX)]

FINISH: dict[str | None, Literal["stop", "length", "stop_string"]] = {
    "eos_token": "stop",
    "length": "length",
    "stop_sequence": "stop_string",
}
FINISH_CHAT = FINISH | {"stop": "stop"}
"""The chat route has a name of its own for the end of a text."""

FEATURES = frozenset(
    {
        *(Feature.CANCEL, Feature.SEED, Feature.STOP, Feature.TEMPERATURE),
        *(Feature.TOP_P, Feature.TOP_K, Feature.REPETITION_PENALTY),
        *(Feature.FREQUENCY_PENALTY, Feature.JSON_SCHEMA, Feature.GRAMMAR),
        Feature.TOKENIZE,
    }
)
NOT_IN_A_CHAT = frozenset({Feature.TOP_K, Feature.REPETITION_PENALTY})

DONE = b"[DONE]"
METRICS = {
    "running": "tgi_batch_current_size",
    "waiting": "tgi_queue_size",
    "batches": "tgi_batch_inference_count",
    "batches_done": "tgi_batch_inference_success",
}
"""What is read of `/metrics`; the last two are counters, one step for each batch."""


class GeneratedToken(msgspec.Struct, gc=False):
    """One token; the text of a special one is not part of the answer."""

    text: str
    special: bool = False


class Details(msgspec.Struct, gc=False):
    """Figures of one generation, in its last event."""

    finish_reason: str
    generated_tokens: Count
    input_length: Count


class Event(msgspec.Struct, gc=False):
    """One event of `/generate_stream`."""

    token: GeneratedToken | None = None
    generated_text: str | None = None
    details: Details | None = None
    error: msgspec.Raw = ABSENT


class Delta(msgspec.Struct, gc=False):
    """What a chunk adds to a chat's answer."""

    content: str | None = None


class Choice(msgspec.Struct, gc=False):
    """The only choice of a chunk."""

    delta: Delta
    finish_reason: str | None = None


class Usage(msgspec.Struct, gc=False):
    """Figures of one chat."""

    prompt_tokens: Count
    completion_tokens: Count


class Chunk(msgspec.Struct, gc=False):
    """One event of `/v1/chat/completions`."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: msgspec.Raw = ABSENT


class Info(msgspec.Struct):
    """What `/info` says of the server."""

    model_id: str
    max_concurrent_requests: Size
    max_total_tokens: Size
    version: str
    sha: str | None = None
    """The commit it was built from."""


class Piece(msgspec.Struct):
    """One token of a text; its fields are not read."""


class TokenizedChat(msgspec.Struct):
    """A chat in the engine's own template, as tokens."""

    tokenize_response: list[Piece]


_Read = TypeVar("_Read")
_decode_event = msgspec.json.Decoder(Event).decode
_decode_chunk = msgspec.json.Decoder(Chunk).decode


def generate_body(prompt: str, request: GenerationRequest) -> bytes:
    """The body of `POST /generate_stream`.

    Raises:
        EngineRefused: for what this route has no word for.
    """
    refuse_beyond(request, FEATURES)
    parameters = _sampling(request) | {
        "max_new_tokens": request.max_tokens,
        "stop": request.stop or None,
        "repetition_penalty": None
        if request.repetition_penalty == 1
        else request.repetition_penalty,
        "frequency_penalty": request.frequency_penalty or None,
        "grammar": _grammar(request),
        "details": True,
        "return_full_text": False,
    }
    return _encode({"inputs": prompt, "parameters": _set(parameters)})


def chat_body(request: GenerationRequest) -> bytes:
    """The body of `POST /v1/chat/completions`.

    Raises:
        EngineRefused: for what this route has no word for.  It has a
            `presence_penalty`, of which TGI makes a repetition penalty.
    """
    refuse_beyond(request, FEATURES - NOT_IN_A_CHAT)
    body = {
        "model": "tgi",
        "messages": _messages(request),
        "max_tokens": request.max_tokens,
        "seed": request.seed or SEED_FOR_ZERO,
        "stop": request.stop or None,
        "temperature": request.temperature,
        "top_p": None if request.temperature == 0 else _top_p(request),
        "frequency_penalty": request.frequency_penalty or None,
        "response_format": _grammar(request),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return _encode(_set(body))


def text_body(text: str) -> bytes:
    """The body of `POST /tokenize`."""
    return _encode({"inputs": text})


def conversation_body(request: GenerationRequest) -> bytes:
    """The body of `POST /chat_tokenize`."""
    return _encode({"model": "tgi", "messages": _messages(request)})


def read_event(payload: bytes) -> Event:
    """One event with a token.

    Raises:
        EngineProtocolError: it is not TGI's.
        EngineError: it reports an error.
    """
    event = _decoded(_decode_event, payload)
    if event.error != ABSENT:
        raise stream_error(payload)
    if event.token is None:
        raise EngineProtocolError("the engine sent an event without a token")
    return event


def read_chunk(payload: bytes) -> Chunk:
    """One chunk of a chat.

    Raises:
        EngineProtocolError: it is not TGI's.
        EngineError: it reports an error.
    """
    chunk = _decoded(_decode_chunk, payload)
    if chunk.error != ABSENT:
        raise chat_error(bytes(chunk.error))
    if chunk.choices is None or len(chunk.choices) > 1:
        raise EngineProtocolError("the engine sent a chunk without one choice")
    return chunk


def finished(details: Details) -> Finished:
    """The figures of the final event; EngineProtocolError for an unknown reason to stop."""
    reason = _reason(FINISH, details.finish_reason)
    return Finished(reason, details.input_length, details.generated_tokens, None)


def finished_chat(finish_reason: str | None, usage: Usage | None) -> Finished:
    """The figures of a chat; EngineProtocolError where its stream ended without them."""
    if usage is None:
        raise EngineProtocolError("the engine ended a chat without its figures")
    reason = _reason(FINISH_CHAT, finish_reason)
    return Finished(reason, usage.prompt_tokens, usage.completion_tokens, None)


def engine_version(info: Info) -> str:
    """Its version, and the commit where it knows: many builds call themselves one version."""
    commit = f" ({info.sha[:COMMIT_CHARACTERS]})" if info.sha else ""
    return (info.version + commit)[:VERSION_CHARACTERS]


def _sampling(request: GenerationRequest) -> dict[str, Any]:
    """What makes TGI sample; at temperature 0 none of it may be there.

    TGI refuses a temperature of 0 and a top_p of 1, and does not sample at
    temperature 1 unless it is told to.
    """
    if request.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": None if request.temperature is None else True,
        "temperature": request.temperature,
        "top_p": _top_p(request),
        "top_k": request.top_k or None,
        "seed": request.seed or SEED_FOR_ZERO,
    }


def _top_p(request: GenerationRequest) -> float | None:
    return None if request.top_p == 1 else request.top_p


def _grammar(request: GenerationRequest) -> dict[str, Any] | None:
    if request.json_schema is not None:
        return {"type": "json", "value": request.json_schema}
    if request.grammar is not None:
        return {"type": "regex", "value": request.grammar}
    return None


def _messages(request: GenerationRequest) -> list[dict[str, str]]:
    return [
        {"role": message.role, "content": message.content} for message in request.messages or ()
    ]


def _reason(
    names: Mapping[str | None, Literal["stop", "length", "stop_string"]], told: str | None
) -> Literal["stop", "length", "stop_string"]:
    reason = names.get(told)
    if reason is None:
        raise EngineProtocolError(f"the engine stopped for an unknown reason: {told}")
    return reason


def _decoded(decode: Callable[[bytes], _Read], payload: bytes) -> _Read:
    try:
        return decode(payload)
    except MALFORMED as error:
        raise EngineProtocolError(f"the engine sent an event not its own: {error}") from None


def _set(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _encode(body: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(body)
