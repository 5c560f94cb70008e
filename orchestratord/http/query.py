"""What a query string may say."""

from __future__ import annotations

import re

from contracts.errors import ErrorCode, Refusal

_NUMBER = re.compile(r"[1-9][0-9]{0,14}")


def whole_number(name: str, text: str | None, most: int) -> int | None:
    """A number from 1 to `most`, None where there is none; raises INVALID_PARAMS."""
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or int(text) > most:
        raise bad_query(name, f"must be a whole number from 1 to {most}")
    return int(text)


def bad_query(name: str, reason: str) -> Refusal:
    """The refusal of one parameter."""
    return Refusal(ErrorCode.INVALID_PARAMS, f"{name}: {reason}", details={"field": name})
