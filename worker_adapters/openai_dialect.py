"""What is said to and by a server of OpenAI's API: bodies, events and refusals, without any I/O.

Only the fields read here are decoded; everything else is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from worker_adapters.answers import MALFORMED, quoted
from worker_adapters.base import (
    EmbeddingRequest,
    Embeddings,
    Finished,
    GenerationRequest,
    Progress,
    Ranking,
    RerankRequest,
)
from worker_adapters.errors import (
    EngineError,
    EngineFailed,
    EngineProtocolError,
)
from worker_adapters.refusals import Meaning, meaning_of, refusal_of

ABSENT = msgspec.Raw(b"null")
DONE = b"[DONE]"
"""The payload that ends every stream, one that failed included."""
GAVE_UP = frozenset({"abort", "error", "content_filter"})
"""Reasons to finish that are no end of the text."""
TOO_LONG_PARAMETER = "input_tokens"
"""What vLLM names where prompt and output do not fit into the context."""
TOO_LONG_CODE = "context_length_exceeded"
"""What OpenAI calls it."""
TOO_LONG_WORDS = "maximum context length"
"""What both say; other servers copied the words and not the codes."""
CTX_UNTOLD = 16_777_216
SLOTS_UNTOLD = 1024
"""The most that a pool may be configured with: where a server names no bound of its own, it
queues what it cannot decode at once, and the pool's own figure is the one that holds."""

COUNT_MAX = 2**31 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
Size = Annotated[int, msgspec.Meta(ge=1, le=COUNT_MAX)]


class Delta(msgspec.Struct, gc=False):
    """What a chat gained."""

    content: str | None = None


class Choice(msgspec.Struct, gc=False):
    """One text under way; a completion has `text`, a chat `delta`."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    """vLLM: the stop string that was met, or the id of a stop token."""


class PromptDetails(msgspec.Struct, gc=False):
    """What is known of the prompt."""

    cached_tokens: Count | None = None


class Usage(msgspec.Struct, gc=False):
    """Figures of one request."""

    prompt_tokens: Count
    completion_tokens: Count = 0
    prompt_tokens_details: PromptDetails | None = None


class Event(msgspec.Struct, gc=False):
    """One event of a stream."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: msgspec.Raw = ABSENT


class Model(msgspec.Struct):
    """One entry of the model list; `max_model_len` is vLLM's."""

    id: str
    max_model_len: Size | None = None


class Models(msgspec.Struct):
    """The model list."""

    data: list[Model]


class Vector(msgspec.Struct):
    """The embedding of one input."""

    index: Count
    embedding: list[float]


class Vectors(msgspec.Struct):
    """The answer of `/v1/embeddings`."""

    data: list[Vector]
    usage: Usage


class Score(msgspec.Struct):
    """How well one document answers."""

    index: Count
    relevance_score: float


class Scores(msgspec.Struct):
    """The answer of `/v1/rerank`."""

    results: list[Score]
    usage: Usage


class Error(msgspec.Struct):
    """Why something was refused."""

    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: int | str | None = None


class ErrorBody(msgspec.Struct):
    """The body of most answers that are not 200."""

    error: Error | str


_decode_event = msgspec.json.Decoder(Event).decode


class StreamReader:
    """One stream as far as it was told: text, then why it ended, its figures, and `[DONE]`."""

    def __init__(self) -> None:
        self._reason: Literal["stop", "length", "stop_string"] | None = None
        self._usage: Usage | None = None

    def text(self, payload: bytes) -> str:
        """The text that an event adds; often none.

        Raises:
            EngineProtocolError: it is none of this dialect, or follows the end of the text.
            EngineError: it reports an error.
        """
        try:
            event = _decode_event(payload)
        except MALFORMED as error:
            raise EngineProtocolError(f"the engine sent an event not its own: {error}") from None
        if event.error != ABSENT:
            raise stream_error(bytes(event.error))
        if event.usage is not None:
            self._usage = event.usage
        if event.choices is None:
            raise EngineProtocolError("the engine sent an event without `choices`")
        return self._of_choice(event.choices) if event.choices else ""

    def prompt(self) -> Progress | None:
        """The size of the prompt, all of it evaluated; None: not told yet."""
        if self._usage is None:
            return None
        size = self._usage.prompt_tokens
        return Progress(size, _cached(self._usage), size)

    def finished(self) -> Finished:
        """The figures, once `[DONE]` came; EngineProtocolError where something is missing."""
        if self._reason is None:
            raise EngineProtocolError("the engine ended its stream without a `finish_reason`")
        if self._usage is None:
            raise EngineProtocolError("the engine ended its stream without `usage`")
        return Finished(
            finish_reason=self._reason,
            tokens_in=self._usage.prompt_tokens,
            tokens_out=self._usage.completion_tokens,
            cached_tokens=_cached(self._usage),
        )

    def _of_choice(self, choices: list[Choice]) -> str:
        if len(choices) > 1:
            raise EngineProtocolError("the engine sent several texts where one was asked for")
        choice = choices[0]
        text = (choice.text if choice.delta is None else choice.delta.content) or ""
        if self._reason is not None and (text or choice.finish_reason is not None):
            raise EngineProtocolError("the engine went on after its `finish_reason`")
        if choice.finish_reason is not None:
            self._reason = _finish(choice.finish_reason, choice.stop_reason)
        return text


def _cached(usage: Usage) -> int | None:
    """Prompt tokens found in the cache; None: not told."""
    details = usage.prompt_tokens_details
    cached = None if details is None else details.cached_tokens
    if cached is not None and cached > usage.prompt_tokens:
        raise EngineProtocolError("the engine found more in its cache than it was sent")
    return cached


def _finish(reason: str, stop_reason: str | int | None) -> Literal["stop", "length", "stop_string"]:
    """Why a text ended; raises EngineError where it did not end by itself."""
    if reason == "length":
        return "length"
    if reason == "stop":
        return "stop_string" if isinstance(stop_reason, str) else "stop"
    if reason in GAVE_UP:
        raise EngineFailed(f"the engine gave the text up: {reason}")
    raise EngineProtocolError(f"the engine stopped for an unknown reason: {reason[:64]}")


def generation_body(request: GenerationRequest, own: Mapping[str, Any]) -> bytes:
    """The body of a completion or a chat: an allow-list of fields, unset ones left out.

    Args:
        own: what only this server's dialect has, and the model's name where it needs one.
    """
    body = {
        "prompt": request.prompt,
        "messages": _chat(request),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": request.max_tokens,
        "seed": request.seed,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "stop": request.stop or None,
        **own,
    }
    return encoded(body)


def prompt_body(request: GenerationRequest) -> bytes:
    """The body of vLLM's `/tokenize`: the prompt or the chat, and nothing else."""
    return encoded({"prompt": request.prompt, "messages": _chat(request)})


def embedding_body(request: EmbeddingRequest, model: str | None) -> bytes:
    """The body of `/v1/embeddings`."""
    return encoded({"model": model, "input": request.inputs, "encoding_format": "float"})


def rerank_body(request: RerankRequest, model: str | None) -> bytes:
    """The body of `/v1/rerank`."""
    return encoded({"model": model, "query": request.query, "documents": request.documents})


def encoded(body: Mapping[str, Any]) -> bytes:
    """JSON of the fields that are set."""
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})


def embeddings(answer: Vectors, count: int) -> Embeddings:
    """One vector for each of `count` inputs; EngineProtocolError where they are not that."""
    vectors = {vector.index: tuple(vector.embedding) for vector in answer.data}
    _one_for_each(vectors, len(answer.data), count)
    if len({len(vector) for vector in vectors.values()}) > 1 or not all(vectors.values()):
        raise EngineProtocolError("the engine gave vectors of unequal length")
    ordered = tuple(vectors[index] for index in range(count))
    return Embeddings(ordered, answer.usage.prompt_tokens)


def ranking(answer: Scores, count: int) -> Ranking:
    """One score for each of `count` documents; EngineProtocolError where they are not that."""
    scores = {score.index: score.relevance_score for score in answer.results}
    _one_for_each(scores, len(answer.results), count)
    return Ranking(tuple(scores[index] for index in range(count)), answer.usage.prompt_tokens)


def _one_for_each(told: Mapping[int, object], entries: int, count: int) -> None:
    if entries != count or set(told) != set(range(count)):
        raise EngineProtocolError(f"the engine answered {entries} of {count} texts")


def _chat(request: GenerationRequest) -> list[dict[str, str]] | None:
    if request.messages is None:
        return None
    return [{"role": message.role, "content": message.content} for message in request.messages]


def answered_error(status: int, body: bytes, retry_after: str | None = None) -> EngineError:
    """What an answer that is not 200 means."""
    try:
        told = msgspec.json.decode(body, type=ErrorBody).error
        error = Error(message=told) if isinstance(told, str) else told
    except MALFORMED:
        error = Error()
    return _meaning(status, error, retry_after)


def stream_error(body: bytes) -> EngineError:
    """What an `error` inside an event stream means; of no status, it is a failure."""
    try:
        error = msgspec.json.decode(body, type=Error)
    except MALFORMED:
        error = Error()
    return _meaning(error.code if isinstance(error.code, int) else 500, error, None)


def _meaning(status: int, error: Error, retry_after: str | None) -> EngineError:
    """The one table of refusals."""
    said = f"HTTP {status} and no reason" if error.message is None else quoted(error.message)
    meaning = meaning_of(status)
    if meaning is Meaning.REFUSED and _too_long(error):
        meaning = Meaning.TOO_LONG
    return refusal_of(meaning, said, status, retry_after)


def _too_long(error: Error) -> bool:
    return (
        error.param == TOO_LONG_PARAMETER
        or error.code == TOO_LONG_CODE
        or TOO_LONG_WORDS in (error.message or "")
    )
