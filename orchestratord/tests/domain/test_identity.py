"""When two requests are the same request."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from contracts.tasks import TaskRequest
from orchestratord.domain.identity import body_digest
from orchestratord.tests.builders import TASK_ID

BODY: dict[str, Any] = {
    "task_id": TASK_ID,
    "model": "tiny",
    "prompt": "once upon\u2028a time",
    "max_tokens": 8,
    "temperature": 0.5,
    "stop": ["a", "b"],
    "metadata": {"x": "1", "y": "2"},
}


def digest(body: dict[str, Any], **layout: Any) -> bytes:
    return body_digest(TaskRequest.model_validate_json(json.dumps(body, **layout)))


def shuffled(value: Any, chance: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    chance.shuffle(keys)
    return {key: shuffled(value[key], chance) for key in keys}


@pytest.mark.parametrize("seed", range(8))
def test_key_order_spacing_and_escapes_make_no_difference(seed: int) -> None:
    other = shuffled(BODY, random.Random(seed))
    assert digest(other, indent=seed % 3, ensure_ascii=bool(seed % 2)) == digest(BODY)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "tiny2"},
        {"prompt": "once upon a time"},
        {"max_tokens": 9},
        {"temperature": 0.25},
        {"stop": ["b", "a"]},
        {"metadata": {"x": "1", "y": "3"}},
        {"metadata": {"x": "2", "y": "1"}},
        {"seed": 1},
        {"priority": "batch"},
        {"priority": "interactive"},
        {"kv_hint": "cold"},
        {"deadline_ms": 1000},
    ],
    ids=str,
)
def test_any_changed_or_added_field_makes_another_request(change: dict[str, Any]) -> None:
    assert digest(BODY | change) != digest(BODY)


def test_a_field_left_out_makes_another_request() -> None:
    for name in ("temperature", "stop", "metadata"):
        assert digest({key: value for key, value in BODY.items() if key != name}) != digest(BODY)


def test_the_task_id_is_no_part_of_it() -> None:
    without = {key: value for key, value in BODY.items() if key != "task_id"}
    request = TaskRequest.model_validate_json(json.dumps(without))
    assert body_digest(request) == digest(BODY)
    assert body_digest(request.model_copy(update={"task_id": TASK_ID})) == digest(BODY)
