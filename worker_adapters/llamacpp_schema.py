"""Whether a llama.cpp server really holds its output to a JSON schema.

A build with LLGuidance, as the xllamacpp wheel is, writes a line in its log about
a schema that it cannot hold (`uniqueItems`, `not`, an unknown `format` or type) and
then goes on as if none had been given.  So each schema is tried first: one token
is asked for, with so much weight on `<` that it must come where nothing forbids
it.  No JSON text begins so.
"""

from __future__ import annotations

import msgspec

from contracts.errors import ErrorCode
from worker_adapters.answers import read_json
from worker_adapters.base import GenerationRequest
from worker_adapters.errors import EngineRefused

TRAP = "<"
TRAP_BIAS = 100.0
FOREIGN_NOTATION = "%llguidance"
"""How a grammar begins that is not in llama.cpp's own notation."""


class Tried(msgspec.Struct):
    """The answer to a trial."""

    content: str


def check_grammar(request: GenerationRequest) -> None:
    """EngineRefused for a grammar whose faults the engine would pass over in silence."""
    grammar = request.grammar
    if grammar is not None and grammar.lstrip().startswith(FOREIGN_NOTATION):
        raise _refused("`grammar` must be in llama.cpp's own notation (GBNF)")


def trial_body(request: GenerationRequest) -> bytes:
    """The body of the `POST /completion` that tries the schema of `request`."""
    body = {
        "prompt": TRAP,
        "n_predict": 1,
        "temperature": 0,
        "logit_bias": [[TRAP, TRAP_BIAS]],
        "cache_prompt": False,
        "json_schema": request.json_schema,
        "response_fields": ["content"],
    }
    if request.slot is not None:
        body["id_slot"] = request.slot
    return msgspec.json.encode(body)


def check_trial(answer: bytes) -> None:
    """EngineRefused where the schema did not hold."""
    if read_json(answer, Tried).content.lstrip().startswith(TRAP):
        raise _refused(
            "this engine cannot hold its output to the `json_schema`: it is no valid schema, or"
            " says something that the engine does not know, such as `not`, `uniqueItems` or a"
            " `format` of one's own"
        )


def _refused(message: str) -> EngineRefused:
    return EngineRefused(message, code=ErrorCode.INVALID_PARAMS, status=400)
