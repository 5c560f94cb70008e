"""What a request wishes for and an engine has not is refused by its name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from contracts.engines import NEUTRAL, Feature
from worker_adapters.base import GenerationRequest
from worker_adapters.errors import EngineRefused
from worker_adapters.wishes import FIELDS, refuse_beyond

WISHES: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.3,
    "json_schema": {"type": "object"},
    "grammar": "root ::= x",
    "stop": ("a",),
}
NO_WISH = {"prompt", "messages", "max_tokens", "seed", "cache_prompt", "slot", "correlation_id"}
"""What every engine takes, or what costs nothing where it is not obeyed."""


def wishing(**wish: Any) -> GenerationRequest:
    return GenerationRequest(prompt="x", max_tokens=1, seed=0, correlation_id="c", **wish)


def test_every_field_is_either_a_wish_or_none() -> None:
    """LO-WRK-097: a new field does not slip past."""
    assert {field.name for field in fields(GenerationRequest)} == NO_WISH | set(WISHES)
    assert set(FIELDS) == set(WISHES) - {"stop"}


@pytest.mark.parametrize("name", sorted(WISHES))
def test_a_wish_is_granted_or_refused_by_name(name: str) -> None:
    """LO-WRK-097."""
    request = wishing(**{name: WISHES[name]})
    refuse_beyond(request, frozenset(Feature))
    without = frozenset(Feature) - {Feature(name)}
    with pytest.raises(EngineRefused, match=f"`{name}`"):
        refuse_beyond(request, without)


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_a_wish_for_nothing_needs_no_feature(name: str) -> None:
    """LO-WRK-097."""
    refuse_beyond(wishing(**{name: NEUTRAL[name]}), frozenset())
