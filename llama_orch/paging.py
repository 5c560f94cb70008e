"""Lists that the server gives a page at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

ItemT = TypeVar("ItemT", covariant=True)
Item = TypeVar("Item")

PAGE = 100
LISTED_MAX = 1000


class Page(Protocol[ItemT]):
    """One page; `next_cursor` None is the last."""

    @property
    def items(self) -> tuple[ItemT, ...]:
        """What it holds."""

    @property
    def next_cursor(self) -> str | None:
        """Pass as `cursor` for the next."""


async def listed(
    fetch: Callable[[dict[str, str]], Awaitable[Page[Item]]], **params: str
) -> list[Item]:
    """The first `LISTED_MAX` or so items of the list that `fetch` pages through."""
    found: list[Item] = []
    query = {**params, "limit": str(PAGE)}
    while len(found) < LISTED_MAX:
        page = await fetch(query)
        found.extend(page.items)
        if page.next_cursor is None:
            break
        query["cursor"] = page.next_cursor
    return found
