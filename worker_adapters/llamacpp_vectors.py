"""Embeddings and ranks of a llama.cpp server: bodies and answers, without any I/O."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec

from worker_adapters.answers import read_json
from worker_adapters.errors import EngineProtocolError
from worker_adapters.llamacpp_dialect import Count

DIMENSIONS_MAX = 65_536
FLOAT_BYTES = 4

Vector = tuple[float, ...]
Numbers = Annotated[list[float], msgspec.Meta(min_length=1, max_length=DIMENSIONS_MAX)]


class Usage(msgspec.Struct):
    """What a request cost."""

    prompt_tokens: Count


class EmbeddedText(msgspec.Struct):
    """One vector: its 32-bit numbers, little-endian, in base64; of an old build, in decimals."""

    index: Count
    embedding: str | Numbers


class EmbeddingAnswer(msgspec.Struct):
    """The answer of `/v1/embeddings`."""

    data: list[EmbeddedText]
    usage: Usage


class RankedText(msgspec.Struct):
    """One document's score."""

    index: Count
    relevance_score: float


class RankAnswer(msgspec.Struct):
    """The answer of `/v1/rerank`, best first."""

    results: list[RankedText]
    usage: Usage


def embedding_body(inputs: Sequence[str]) -> bytes:
    """The body of `POST /v1/embeddings`.

    In base64 the numbers come as the engine holds them, in a quarter of the bytes.
    """
    return msgspec.json.encode({"input": inputs, "encoding_format": "base64"})


def rank_body(query: str, documents: Sequence[str]) -> bytes:
    """The body of `POST /v1/rerank`."""
    return msgspec.json.encode({"query": query, "documents": documents})


def read_embeddings(body: bytes, inputs: int) -> tuple[list[Vector], int]:
    """One vector for each of `inputs` texts, in their order, and the tokens of all.

    Raises:
        EngineProtocolError: another number of vectors, of other lengths, or no numbers.
    """
    answer = read_json(body, EmbeddingAnswer)
    by_index = {row.index: _vector(row.embedding) for row in answer.data}
    _check_complete(by_index, len(answer.data), inputs)
    vectors = [by_index[index] for index in range(inputs)]
    check_dimensions(vectors)
    return vectors, answer.usage.prompt_tokens


def read_ranks(body: bytes, documents: int) -> tuple[list[float], int]:
    """One score for each of the documents, in the order of the request, and the tokens of all.

    Raises:
        EngineProtocolError: another number of scores, or one that is no number.
    """
    answer = read_json(body, RankAnswer)
    by_index = {row.index: row.relevance_score for row in answer.results}
    _check_complete(by_index, len(answer.results), documents)
    scores = [by_index[index] for index in range(documents)]
    _check_finite(scores)
    return scores, answer.usage.prompt_tokens


def check_dimensions(vectors: Iterable[Vector]) -> None:
    """EngineProtocolError where vectors differ in length."""
    lengths = {len(vector) for vector in vectors}
    if len(lengths) > 1:
        raise EngineProtocolError(f"the engine gave vectors of {sorted(lengths)[:4]} dimensions")


def _vector(told: str | list[float]) -> Vector:
    vector = _unpacked(told) if isinstance(told, str) else tuple(told)
    _check_finite(vector)
    return vector


def _unpacked(text: str) -> Vector:
    try:
        packed = base64.b64decode(text, validate=True)
    except ValueError:
        raise EngineProtocolError("the engine gave a vector that is not base64") from None
    count, odd = divmod(len(packed), FLOAT_BYTES)
    if odd or not 1 <= count <= DIMENSIONS_MAX:
        raise EngineProtocolError(f"the engine gave a vector of {len(packed)} bytes")
    return struct.unpack(f"<{count}f", packed)


def _check_complete(by_index: Mapping[int, object], rows: int, asked: int) -> None:
    if rows != asked or len(by_index) != asked or any(index >= asked for index in by_index):
        raise EngineProtocolError(f"the engine gave {rows} answers to {asked} texts, or one twice")


def _check_finite(numbers: Iterable[float]) -> None:
    if not all(map(math.isfinite, numbers)):
        raise EngineProtocolError(
            "the engine gave a number that is none: is the model made for this workload?"
        )
