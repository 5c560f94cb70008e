"""Bounds of what a client may have an engine build before its first token.

A grammar of 60 KB can end llama.cpp: it calls itself once for each open parenthesis,
and stacks are finite.  A few bytes, `{0,2000}` again and again or `maxItems` of a
hundred million, have it take gigabytes, during which it serves nobody else.  An engine
that is ended so takes every other stream on it along, and the next engine would be
given the same request.  So this is refused before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from contracts.errors import ErrorCode
from worker_adapters.base import GenerationRequest
from worker_adapters.errors import EngineRefused

NESTING_MAX = 256
"""Open parentheses; llama.cpp was seen to end at 30,000."""
ELEMENTS_MAX = 100_000
"""Of a grammar once its repetitions are written out; 8 million took more than 2 GB."""
ITEMS_MAX = 100_000
"""Sum of all bounds of arrays in a schema; a million took 700 MB and 11 s."""
SCHEMA_BYTES_MAX = 65_536
"""As much as of a grammar; the time it takes grows with the square."""

_PIECE = re.compile(
    r'"(?:\\.?|[^"\\])*(?:"|\Z)|\[(?:\\.?|[^\]\\])*(?:\]|\Z)|<[^>]*(?:>|\Z)|#[^\n]*'
    r"|\{[\s\d,]*\}|[()]|[\w-]+|\.",
    re.DOTALL,
)
"""Of a grammar: literals, classes, tokens by their text, comments, repetitions, parentheses, names.

What has no end goes to the end of the text, or a text of brackets would be read anew
from each of them.
"""
_OF_PATTERN = re.compile(r"\\.|\[(?:\\.?|[^\]\\])*(?:\]|\Z)|[()]", re.DOTALL)
_NUMBER = re.compile(r"\d+")
_ITEM_BOUNDS = ("minItems", "maxItems", "minContains", "maxContains")
_DIGITS_MAX = 9


def check_structure(request: GenerationRequest) -> None:
    """Refuse a schema or grammar that an engine might not survive.

    Raises:
        EngineRefused: INVALID_PARAMS, naming the field.
    """
    if request.grammar is not None:
        _check_grammar(request.grammar)
    if request.json_schema is not None:
        _check_schema(request.json_schema)


def _check_grammar(grammar: str) -> None:
    sizes, last = [0], 0
    for found in _PIECE.finditer(grammar):
        piece = found[0]
        if piece.startswith("#"):
            continue
        if piece == "(":
            sizes.append(0)
            if len(sizes) > NESTING_MAX:
                raise _refused(f"`grammar` opens more than {NESTING_MAX} parentheses at once")
            continue
        if piece.startswith("{"):
            more = last * (_repetitions(piece) - 1)
            last += more
        elif piece == ")" and len(sizes) > 1:
            more = last = sizes.pop()
        else:
            more = last = max(1, len(piece) - 2) if piece.startswith('"') else 1
        sizes[-1] += more
        if sizes[-1] > ELEMENTS_MAX:
            raise _refused(
                f"`grammar` has more than {ELEMENTS_MAX} elements once its repetitions are written"
                " out"
            )


def _repetitions(braces: str) -> int:
    """Of `{2}`, `{2,}` and `{2,5}`, how many copies are made."""
    counts = _NUMBER.findall(braces)
    if any(len(count) > _DIGITS_MAX for count in counts):
        return ELEMENTS_MAX + 1
    return max([1, *map(int, counts)])


def _check_schema(schema: Mapping[str, Any]) -> None:
    if len(msgspec.json.encode(schema)) > SCHEMA_BYTES_MAX:
        raise _refused(f"`json_schema` is longer than {SCHEMA_BYTES_MAX} bytes")
    items = 0.0
    for part in _parts(schema):
        bounds = (part.get(name) for name in _ITEM_BOUNDS)
        items += sum(bound for bound in bounds if isinstance(bound, int | float))
        if items > ITEMS_MAX:
            raise _refused(
                f"`json_schema` names arrays of more than {ITEMS_MAX} items, all bounds together"
            )
        for pattern in _patterns(part):
            if _nesting(pattern) > NESTING_MAX:
                raise _refused(
                    f"`json_schema` has a pattern of more than {NESTING_MAX} open parentheses"
                )


def _parts(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every object in a schema, wherever a `$ref` might find it."""
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield part
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part


def _patterns(part: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(part.get("pattern"), str):
        yield part["pattern"]
    if isinstance(part.get("patternProperties"), Mapping):
        yield from part["patternProperties"]


def _nesting(pattern: str) -> int:
    depth = deepest = 0
    for found in _OF_PATTERN.finditer(pattern):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        deepest = max(deepest, depth)
    return deepest


def _refused(message: str) -> EngineRefused:
    return EngineRefused(message, code=ErrorCode.INVALID_PARAMS, status=400)
