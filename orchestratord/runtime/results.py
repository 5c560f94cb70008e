"""Answers that are no text: asked for, checked, and kept as JSON from then on.

A result may be megabytes of numbers.  It is encoded once, in slices between which
the loop serves others, and passed on as bytes: no model is made of it again.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio.lowlevel
import msgspec

from contracts.model import Contract
from orchestratord.runtime.generation import answer_request
from orchestratord.stores.tasks import NewTask
from worker_adapters.base import EmbeddingRequest, EngineClient
from worker_adapters.errors import EngineProtocolError

SLICE_NUMBERS = 4_096
"""Encoded at a time: well under a millisecond."""
BESIDE_RESULT_BYTES = 4_096
"""Of a log, what the rest of its `end` event may take."""

_encode = msgspec.json.Encoder().encode


async def ask(client: EngineClient, task: NewTask, log_bytes: int) -> tuple[bytes, int]:
    """The result of a task as JSON, and the prompt tokens it took.

    Raises:
        EngineError: also where the answer is not one of `inputs`, or too long for a log.
    """
    request = answer_request(task)
    if isinstance(request, EmbeddingRequest):
        found = await client.embed(request)
        _refuse_other_count("vectors", len(found.vectors), len(request.inputs))
        result = await _embeddings(found.vectors, log_bytes - BESIDE_RESULT_BYTES)
        return result, found.tokens_in
    ranking = await client.rerank(request)
    _refuse_other_count("scores", len(ranking.scores), len(request.documents))
    result = _ranking(ranking.scores)
    _refuse_too_long(len(result), log_bytes - BESIDE_RESULT_BYTES)
    return result, ranking.tokens_in


def with_result(model: Contract, result: bytes) -> bytes:
    """A contract as JSON, with a result that is JSON already in its place."""
    data = model.model_dump_json(exclude={"result"}).encode()
    # One copy; formatting would make several.
    return b"".join((data.removesuffix(b"}"), b',"result":', result, b"}"))


async def _embeddings(vectors: Sequence[Sequence[float]], max_bytes: int) -> bytes:
    parts, size = [b'{"embeddings":['], 0
    for number, vector in enumerate(vectors):
        if not vector:
            raise EngineProtocolError("the engine sent a vector of no numbers")
        parts.append(b",[" if number else b"[")
        for begin in range(0, len(vector), SLICE_NUMBERS):
            piece = _numbers(vector[begin : begin + SLICE_NUMBERS])
            parts.append(b"," + piece if begin else piece)
            size += len(piece) + 1
            _refuse_too_long(size, max_bytes)
            await anyio.lowlevel.checkpoint()
        parts.append(b"]")
    parts.append(b"]}")
    return b"".join(parts)


def _ranking(scores: Sequence[float]) -> bytes:
    """Best first; equal ones in the order of the request."""
    _numbers(scores)
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return _encode({"ranking": [{"index": i, "score": float(scores[i])} for i in order]})


def _numbers(values: Sequence[float]) -> bytes:
    """Numbers with commas between them; what is no finite one is not passed on."""
    encoded = _encode(values)
    if b"n" in encoded:
        raise EngineProtocolError("the engine sent a number that is not finite")
    return encoded[1:-1]


def _refuse_other_count(what: str, got: int, wanted: int) -> None:
    if got != wanted:
        raise EngineProtocolError(f"the engine sent {got} {what} for {wanted} texts")


def _refuse_too_long(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise EngineProtocolError("the engine sent a result longer than streams.log_bytes allows")
