"""What is said to and by a llama.cpp server: bodies, events and refusals, without any I/O.

Only the fields read here are decoded; everything else is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from contracts.tasks import Message
from worker_adapters.answers import MALFORMED, quoted
from worker_adapters.base import Finished, GenerationRequest
from worker_adapters.errors import (
    EngineError,
    EngineProtocolError,
)
from worker_adapters.refusals import Meaning, meaning_of, refusal_of

ABSENT = msgspec.Raw(b"null")
FINAL_FIELDS = (
    *("content", "stop", "stop_type", "tokens_evaluated", "tokens_predicted"),
    *("timings", "id_slot"),
)
"""Asked for by name: otherwise the last event repeats the whole prompt."""

FINISH: dict[str | None, Literal["stop", "length", "stop_string"]] = {
    "eos": "stop",
    "limit": "length",
    "word": "stop_string",
}

TOO_LONG = "exceed_context_size_error"
TOO_LONG_FOR_A_BATCH = "too large to process"
"""Said of an input to embed, which has to fit one batch, as if the server had failed."""

VERSION_CHARACTERS = 256
UNVERSIONED_BUILD = "b0-"
"""How `build_info` begins in a build that was not told its own version."""

INT32_MAX = 2**31 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]
"""A figure as llama.cpp's own `int32_t` holds it; any other is not llama.cpp's."""
Size = Annotated[int, msgspec.Meta(ge=1, le=INT32_MAX)]
"""A count of which an engine that serves has at least one."""
SlotNumber = Annotated[int, msgspec.Meta(ge=-1, le=INT32_MAX)]
"""-1 is no slot."""


class Timings(msgspec.Struct, gc=False):
    """Figures of one generation."""

    cache_n: Count | None = None
    """Prompt tokens found in the cache."""


class PromptProgress(msgspec.Struct, gc=False):
    """How far a prompt is evaluated."""

    total: Count
    processed: Count
    """Cached tokens included."""
    cache: Count | None = None


class Event(msgspec.Struct, gc=False):
    """One event of a `/completion` stream."""

    content: str | None = None
    stop: bool = False
    stop_type: str | None = None
    tokens_evaluated: Count = 0
    tokens_predicted: Count = 0
    timings: Timings | None = None
    id_slot: SlotNumber = -1
    """Only the final event tells the real one; the others say -1."""
    prompt_progress: PromptProgress | None = None
    error: msgspec.Raw = ABSENT


class Rendered(msgspec.Struct):
    """A chat in the engine's own template."""

    prompt: str


class Tokens(msgspec.Struct):
    """A text as token ids."""

    tokens: list[int]


class Settings(msgspec.Struct):
    """Defaults of a generation."""

    n_ctx: Size


class TemplateAbilities(msgspec.Struct):
    """What the model's chat template can render."""

    supports_tools: bool = False


class Props(msgspec.Struct):
    """What `/props` says of the server."""

    default_generation_settings: Settings
    total_slots: Size
    model_alias: str | None = None
    build_info: str | None = None
    chat_template_caps: TemplateAbilities | None = None


class NextToken(msgspec.Struct):
    """What a slot generates."""

    n_decoded: int = 0


class Slot(msgspec.Struct):
    """One entry of `/slots`; one that was never used tells of no work."""

    is_processing: bool
    speculative: bool | None = None
    """Whether it guesses tokens ahead; None: not told."""
    id_task: int = 0
    n_prompt_tokens_processed: int | None = None
    next_token: list[NextToken] | NextToken = msgspec.field(default_factory=list)
    """A list of one; older builds give the one without a list."""

    @property
    def work_done(self) -> int | None:
        """A number that changes whenever the slot is given work or works; None: not told."""
        if self.n_prompt_tokens_processed is None:
            return None
        told = self.next_token
        tokens = [told] if isinstance(told, NextToken) else told
        decoded = sum(token.n_decoded for token in tokens)
        return self.id_task + self.n_prompt_tokens_processed + decoded


class Error(msgspec.Struct):
    """Why something was refused."""

    message: str
    type: str = ""
    code: int = 500


class ErrorBody(msgspec.Struct):
    """The body of every answer that is not 200."""

    error: Error


_decode_event = msgspec.json.Decoder(Event).decode


def completion_body(prompt: str, request: GenerationRequest) -> bytes:
    """The body of `POST /completion`: an allow-list of fields, unset ones left out."""
    body = {
        "prompt": prompt,
        "stream": True,
        "return_progress": True,
        "n_predict": request.max_tokens,
        "seed": request.seed,
        "cache_prompt": request.cache_prompt,
        "stop": request.stop,
        "response_fields": FINAL_FIELDS,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repeat_penalty": request.repetition_penalty,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "json_schema": request.json_schema,
        "grammar": request.grammar,
        "id_slot": request.slot,
    }
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})


def chat_body(messages: Sequence[Message]) -> bytes:
    """The body of `POST /apply-template`."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    return msgspec.json.encode({"messages": chat})


def text_body(text: str) -> bytes:
    """The body of `POST /tokenize`, counted as `/completion` reads a prompt.

    Special tokens are recognised, and the leading one of the model is added.
    """
    return msgspec.json.encode({"content": text, "add_special": True, "parse_special": True})


def read_event(payload: bytes) -> Event:
    """One event, with text in `content`.

    Raises:
        EngineProtocolError: it is not llama.cpp's.
        EngineError: it reports an error.
    """
    try:
        event = _decode_event(payload)
    except MALFORMED as error:
        raise EngineProtocolError(f"the engine sent an event not its own: {error}") from None
    if event.error != ABSENT:
        raise stream_error(bytes(event.error))
    if event.content is None:
        raise EngineProtocolError("the engine sent an event without `content`")
    return event


def finished(event: Event) -> Finished:
    """The figures of the final event; EngineProtocolError for an unknown reason to stop."""
    reason = FINISH.get(event.stop_type)
    if reason is None:
        raise EngineProtocolError(f"the engine stopped for an unknown reason: {event.stop_type}")
    return Finished(
        finish_reason=reason,
        tokens_in=event.tokens_evaluated,
        tokens_out=event.tokens_predicted,
        cached_tokens=None if event.timings is None else event.timings.cache_n,
        slot=event.id_slot if event.id_slot >= 0 else None,
    )


def engine_version(props: Props) -> str | None:
    """What the server says it is; None where its build does not know."""
    build = props.build_info
    if not build or build.startswith(UNVERSIONED_BUILD):
        return None
    return build[:VERSION_CHARACTERS]


def answered_error(status: int, body: bytes, retry_after: str | None = None) -> EngineError:
    """What an answer that is not 200 means."""
    try:
        error = msgspec.json.decode(body, type=ErrorBody).error
    except MALFORMED:
        error = Error(message=f"HTTP {status} and no reason")
    return _meaning(status, error, retry_after)


def stream_error(body: bytes) -> EngineError:
    """What an `error` inside an event stream means."""
    try:
        error = msgspec.json.decode(body, type=Error)
    except MALFORMED:
        error = Error(message="an error without a reason")
    return _meaning(error.code, error, None)


def _meaning(status: int, error: Error, retry_after: str | None) -> EngineError:
    """The one table of llama.cpp's refusals."""
    meaning = meaning_of(status)
    if error.type == TOO_LONG or (status == 500 and TOO_LONG_FOR_A_BATCH in error.message):
        meaning = Meaning.TOO_LONG
    return refusal_of(meaning, quoted(error.message), status, retry_after)
