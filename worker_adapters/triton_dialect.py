"""What is said to and by a Triton server's generate extension, without any I/O.

A model says itself which tensors it reads and gives; nothing else is sent to it or
expected of it, and what a request needs besides is refused by name.  The names are
those of TensorRT-LLM's and vLLM's backends, which agree where both have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from contracts.engines import Feature
from worker_adapters.answers import MALFORMED
from worker_adapters.base import Finished, GenerationRequest
from worker_adapters.errors import EngineProtocolError, unserved
from worker_adapters.triton_refusals import stream_error
from worker_adapters.wishes import refuse_beyond

ABSENT = msgspec.Raw(b"null")
INT32_MAX = 2**31 - 1
VERSION_CHARACTERS = 256
READY = "READY"
CONTEXT_PARAMETER = "max_seq_len"
DIGITS_MAX = 10
BATCHES_ITSELF = frozenset({"vllm"})
"""Backends that take any number of requests at once, in one instance."""
TEXT_IN, TEXT_OUT = "text_input", "text_output"
BOUND = "max_tokens"

Count = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]

TENSORS = MappingProxyType(
    {
        Feature.TEMPERATURE: ("temperature",),
        Feature.TOP_P: ("top_p",),
        Feature.TOP_K: ("top_k",),
        Feature.MIN_P: ("min_p",),
        Feature.SEED: ("random_seed", "seed"),
        Feature.STOP: ("stop_words", "stop"),
        Feature.REPETITION_PENALTY: ("repetition_penalty",),
        Feature.PRESENCE_PENALTY: ("presence_penalty",),
        Feature.FREQUENCY_PENALTY: ("frequency_penalty",),
    }
)
"""What a model must read to have a feature: the first of these that it declares."""

EXTRAS = MappingProxyType(
    {
        "num_input_tokens": "return_num_input_tokens",
        "num_output_tokens": "return_num_output_tokens",
        "finish_reason": "return_finish_reason",
    }
)
"""Output -> the input that asks for it; asked of a model that declares both."""

ALWAYS = ("stream", "exclude_input_in_output")
"""Set where a model declares them: piece by piece, and without the prompt."""

FINISH: dict[str | None, Literal["stop", "length", "stop_string"]] = {
    "stop": "stop",
    "length": "length",
    "stop_string": "stop_string",
}


class Tensor(msgspec.Struct):
    """One input or output of a model."""

    name: str
    datatype: str = ""
    shape: list[int] = msgspec.field(default_factory=list)


class ModelMetadata(msgspec.Struct):
    """What `/v2/models/M` says."""

    name: str
    inputs: list[Tensor] = msgspec.field(default_factory=list)
    outputs: list[Tensor] = msgspec.field(default_factory=list)


class IndexEntry(msgspec.Struct):
    """One model of the repository."""

    name: str
    state: str = ""


class Server(msgspec.Struct):
    """What `/v2` says."""

    version: str


class Parameter(msgspec.Struct):
    """One parameter of a model's configuration."""

    string_value: str = ""


class Group(msgspec.Struct):
    """Instances of a model."""

    count: int = 1


class ModelConfig(msgspec.Struct):
    """What `/v2/models/M/config` says."""

    parameters: dict[str, Parameter] = msgspec.field(default_factory=dict)
    instance_group: list[Group] = msgspec.field(default_factory=list)
    max_batch_size: int = 0
    backend: str = ""


class Event(msgspec.Struct, gc=False):
    """One event of `/generate_stream`."""

    text_output: str | None = None
    finish_reason: str | None = None
    num_input_tokens: Count | None = None
    num_output_tokens: Count | None = None
    error: msgspec.Raw = ABSENT


@dataclass(frozen=True)
class TextModel:
    """A model that makes text of text: what it reads and what it gives."""

    name: str
    inputs: frozenset[str]
    outputs: frozenset[str]

    @property
    def features(self) -> frozenset[Feature]:
        """What may be asked of it besides a text."""
        return frozenset({Feature.CANCEL}) | {f for f in TENSORS if self.tensor(f) is not None}

    def tensor(self, feature: Feature) -> str | None:
        """The input that stands for a feature; None: it has none."""
        return next((name for name in TENSORS[feature] if name in self.inputs), None)


_decode_event = msgspec.json.Decoder(Event).decode


def text_model(told: ModelMetadata) -> TextModel | None:
    """A model as its metadata have it; None for one that makes no text of text."""
    inputs = frozenset(tensor.name for tensor in told.inputs)
    outputs = frozenset(tensor.name for tensor in told.outputs)
    if TEXT_IN not in inputs or TEXT_OUT not in outputs:
        return None
    return TextModel(told.name, inputs, outputs)


def generate_body(model: TextModel, request: GenerationRequest) -> bytes:
    """The body of `POST /v2/models/M/generate_stream`: inputs the model declares, no others.

    Raises:
        EngineRefused: the request needs one that it does not.
    """
    if BOUND not in model.inputs:
        raise unserved(f"`{BOUND}`: its model {model.name} declares no such input")
    refuse_beyond(request, model.features)
    body: dict[str, Any] = {TEXT_IN: request.prompt, BOUND: request.max_tokens}
    body |= {name: True for name in ALWAYS if name in model.inputs}
    body |= {
        asking: True
        for output, asking in EXTRAS.items()
        if output in model.outputs and asking in model.inputs
    }
    for feature, value in _sampling(request).items():
        tensor = model.tensor(feature)
        # A wish was refused above: what is left has no effect, or is the seed.
        if tensor is not None and value is not None:
            body[tensor] = value
    return msgspec.json.encode(body)


def read_event(payload: bytes) -> Event:
    """One event, with text in `text_output`.

    Raises:
        EngineProtocolError: it is not Triton's.
        EngineError: it reports an error.
    """
    try:
        event = _decode_event(payload)
    except MALFORMED as error:
        raise EngineProtocolError(f"the engine sent an event not its own: {error}") from None
    if event.error != ABSENT:
        raise stream_error(payload)
    if event.text_output is None:
        raise EngineProtocolError("the engine sent an event without `text_output`")
    return event


class Tally:
    """The figures of one stream, as far as the model tells them.

    A model that counts nothing leaves us its pieces of text, which are its tokens
    where it sends each as it comes.  Nobody can count its prompt: 0 tokens.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._pieces = 0
        self._tokens_in = 0
        self._tokens_out: int | None = None
        self._reason: str | None = None

    def add(self, event: Event) -> None:
        """One event more."""
        self._pieces += bool(event.text_output)
        if event.num_input_tokens is not None:
            self._tokens_in = event.num_input_tokens
        if event.num_output_tokens is not None:
            # vLLM's backend tells each event's own, so that they add up.
            self._tokens_out = (self._tokens_out or 0) + event.num_output_tokens
        if event.finish_reason not in (None, "", "None"):
            self._reason = event.finish_reason

    def finished(self, *, stopped: bool) -> Finished:
        """The end, after the body's own: Triton has no event for it.

        Args:
            stopped: a stop string ended the text.
        """
        tokens_out = self._pieces if self._tokens_out is None else self._tokens_out
        reason = FINISH["stop_string"] if stopped else FINISH.get(self._reason)
        if reason is None:
            reason = "length" if tokens_out >= self._max_tokens else "stop"
        return Finished(reason, self._tokens_in, min(tokens_out, INT32_MAX), None)


def trtllm_version(config: ModelConfig) -> str | None:
    """TensorRT-LLM's own, where the model's configuration names it."""
    for name in ("tensorrt_llm_version", "trtllm_version"):
        told = config.parameters.get(name)
        if told is not None and told.string_value:
            return told.string_value[:VERSION_CHARACTERS]
    return None


def slots(config: ModelConfig) -> int:
    """Requests it takes at once: a batch in each of its instances; else no bound."""
    if config.backend in BATCHES_ITSELF:
        return INT32_MAX
    instances = sum(max(0, group.count) for group in config.instance_group) or 1
    return min(INT32_MAX, instances * max(1, config.max_batch_size))


def context(config: ModelConfig) -> int:
    """Tokens of its context, where its configuration has a parameter for it; else no bound."""
    told = config.parameters.get(CONTEXT_PARAMETER)
    text = "" if told is None else told.string_value
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX):
        return INT32_MAX
    return min(INT32_MAX, max(1, int(text)))


def ready_names(entries: Sequence[IndexEntry]) -> list[str]:
    """Of the models of a repository, those that serve."""
    return [entry.name for entry in entries if entry.state == READY]


def _sampling(request: GenerationRequest) -> dict[Feature, Any]:
    return {
        Feature.SEED: request.seed,
        Feature.TEMPERATURE: request.temperature,
        Feature.TOP_P: request.top_p,
        Feature.TOP_K: request.top_k or None,
        Feature.MIN_P: request.min_p,
        Feature.REPETITION_PENALTY: request.repetition_penalty,
        Feature.PRESENCE_PENALTY: request.presence_penalty,
        Feature.FREQUENCY_PENALTY: request.frequency_penalty,
        Feature.STOP: request.stop or None,
    }
