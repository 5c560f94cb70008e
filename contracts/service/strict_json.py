"""JSON as RFC 8259 has it, and no more than one client may make us parse.

The standard parser lets a repeated key win in silence, reads NaN and 1e999, and
recurses as deep as it is told; the model validates afterwards and cannot see any
of that.  NUL inside a string is JSON and passes.
"""

from __future__ import annotations

import json
import re
from math import isinf
from typing import Any, NoReturn

NUMBER_CHARACTERS_MAX = 32
KEYS_MAX = 1_024
"""In one object: a schema that names each unknown one would take its time."""
KEY_SHOWN = 64

_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class BadJson(Exception):
    """Why it is not JSON we take, with the place where it is known."""


def check_json(body: bytes, depth_max: int) -> None:
    """Return where `body` is JSON of at most `depth_max` levels.

    Raises:
        BadJson: empty, not UTF-8, malformed, too deep, a repeated key, a number
            that is not finite or has more than 32 characters.
    """
    if not body.strip(b" \t\r\n"):
        raise BadJson("it is empty")
    _check_depth(body, depth_max)
    try:
        _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadJson(f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise BadJson(f"{error.msg} at line {error.lineno} column {error.colno}") from error


def _check_depth(body: bytes, depth_max: int) -> None:
    if body.count(b"[") + body.count(b"{") <= depth_max:
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(body):
        first = match[0][0]
        if first in b"[{":
            depth += 1
            if depth > depth_max:
                raise BadJson(f"more than {depth_max} levels at byte {match.start()}")
        elif first in b"]}":
            depth -= 1


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > KEYS_MAX:
        raise BadJson(f"an object has {len(pairs)} keys, more than {KEYS_MAX}")
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadJson(f"the key {json.dumps(key[:KEY_SHOWN])} is repeated")
            seen.add(key)
    return found


def _bounded_int(text: str) -> int:
    if len(text) > NUMBER_CHARACTERS_MAX:
        raise BadJson(f"a number has {len(text)} characters, more than {NUMBER_CHARACTERS_MAX}")
    return int(text)


def _finite_float(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise BadJson(f"the number {text[:NUMBER_CHARACTERS_MAX]} is not finite")
    return number


def _not_a_constant(text: str) -> NoReturn:
    raise BadJson(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_repeats,
    parse_int=_bounded_int,
    parse_float=_finite_float,
    parse_constant=_not_a_constant,
)
