"""What a query string may say."""

from __future__ import annotations

import re

from starlette.datastructures import QueryParams

from contracts.errors import ErrorCode, Refusal
from contracts.service.routes import Parameter

PAGE_DEFAULT, PAGE_MAX = 50, 500
LIMIT = Parameter(
    "limit",
    f"At most so many; {PAGE_DEFAULT} where absent.",
    {"type": "integer", "minimum": 1, "maximum": PAGE_MAX},
)

_NUMBER = re.compile(r"[1-9][0-9]{0,14}")


def page_limit(query: QueryParams) -> int:
    """How many entries a page is to have; raises INVALID_PARAMS."""
    return whole_number("limit", query.get("limit"), PAGE_MAX) or PAGE_DEFAULT


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
