"""Bodies: what is JSON, what is the schema's, and what is said about each."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ErrorCode, Refusal
from contracts.service.json_body import parse_contract
from contracts.service.strict_json import KEYS_MAX, BadJson, check_json
from contracts.tasks import TaskRequest

DEPTH = 64

BAD = {
    "empty": b"",
    "blank": b" \r\n\t",
    "cut": b'{"a":',
    "depth_50k": b"[" * 50_000,
    "depth_50k_closed": b"[" * 50_000 + b"]" * 50_000,
    "depth_65": b"[" * 65 + b"]" * 65,
    "depth_65_objects": b'{"a":' * 65 + b"1" + b"}" * 65,
    "nan": b'{"a":NaN}',
    "infinity": b'{"a":Infinity}',
    "minus_infinity": b'{"a":-Infinity}',
    "overflow": b'{"a":1e999}',
    "digits_5000": b'{"a":' + b"9" * 5000 + b"}",
    "digits_33": b'{"a":' + b"9" * 33 + b"}",
    "not_utf8": b'{"a":"\xff"}',
    "half_a_character": b'{"a":"\xe2\x82"}',
    "utf16": '{"a":1}'.encode("utf-16"),
    "byte_order_mark": b'\xef\xbb\xbf{"a":1}',
    "repeated_key": b'{"a":1,"a":2}',
    "repeated_key_escaped": b'{"a":1,"\\u0061":2}',
    "repeated_key_deep": b'{"x":[{"b":1,"b":1}]}',
    "two_values": b"{} {}",
    "single_quotes": b"{'a':1}",
    "trailing_comma": b'{"a":1,}',
    "leading_zero": b'{"a":01}',
    "control_character": b'{"a":"\n"}',
    "raw_nul": b'{"a":"\x00"}',
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_json_is_refused_in_one_line(name: str) -> None:
    """LO-HTTP-023."""
    with pytest.raises(Refusal) as caught:
        parse_contract(BAD[name], TaskRequest, DEPTH)
    assert caught.value.code is ErrorCode.INVALID_PARAMS
    assert caught.value.message.startswith("The body is not valid JSON: ")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("text", ["\\ud800", "a\\udfff", "\\ud800\\u0041"])
def test_half_a_surrogate_pair_is_refused_anywhere(text: str) -> None:
    """LO-HTTP-023."""
    for body in (f'{{"prompt":"{text}"}}', f'{{"{text}":1}}'):
        with pytest.raises(Refusal) as caught:
            parse_contract(body.encode(), TaskRequest, DEPTH)
        assert caught.value.code is ErrorCode.INVALID_PARAMS


@pytest.mark.parametrize("keys", [KEYS_MAX - 1, KEYS_MAX, KEYS_MAX + 1])
def test_an_object_has_a_bounded_number_of_keys(keys: int) -> None:
    """LO-HTTP-023: a schema that names each unknown one would hold everybody up."""
    body = json.dumps({f"k{n}": n for n in range(keys)}).encode()
    if keys > KEYS_MAX:
        with pytest.raises(BadJson, match="keys, more than"):
            check_json(body, DEPTH)
    else:
        check_json(body, DEPTH)


def test_a_list_is_judged_by_its_first_wrong_entry() -> None:
    body = json.dumps({"model": "m", "workload": "embedding", "inputs": [1, 2, 3]}).encode()
    with pytest.raises(Refusal) as caught:
        parse_contract(body, TaskRequest, DEPTH)
    assert caught.value.details == {"field": "inputs[0]"}


def test_the_place_is_named() -> None:
    with pytest.raises(BadJson, match=r"line 2 column 6$"):
        check_json(b'{"a":1,\n"b": x}', DEPTH)
    with pytest.raises(BadJson, match="byte 6 is not UTF-8"):
        check_json(b'{"a":"\xff"}', DEPTH)
    with pytest.raises(BadJson, match='the key "b" is repeated'):
        check_json(BAD["repeated_key_deep"], DEPTH)


def test_depth_is_bounded_exactly_and_brackets_in_text_do_not_count() -> None:
    """LO-HTTP-023, LO-SYS-050."""
    check_json(b"[" * DEPTH + b"]" * DEPTH, DEPTH)
    check_json(json.dumps(["[" * 100, '\\"[[' * 100]).encode(), DEPTH)
    check_json(b"[" + b"[]," * 1000 + b"[]]", DEPTH)


def test_a_number_of_32_characters_passes_and_nul_in_a_string_is_text() -> None:
    check_json(b"9" * 32, DEPTH)
    check_json(b'{"a":"\\u0000"}', DEPTH)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_every_json_value_passes(value: object) -> None:
    check_json(json.dumps(value).encode(), DEPTH)
    check_json(json.dumps(value, ensure_ascii=False).encode(), DEPTH)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_task_or_a_refusal(body: bytes) -> None:
    """LO-HTTP-023."""
    with pytest.raises(Refusal):
        parse_contract(body, TaskRequest, DEPTH)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "8"}, "max_tokens"),
        ({"max_tokens": 8.0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"unknown": 1}, "unknown"),
        ({"engine_args": ["--log-disable"]}, "engine_args"),
        ({"priority": "high"}, "priority"),
        ({"seed": 2**32 - 1}, "seed"),
        ({"temperature": "0"}, "temperature"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"model": "m\n"}, "model"),
        ({"task_id": "not-a-uuid"}, "task_id"),
        ({"metadata": {"a b": "x"}}, "metadata.a b.[key]"),
    ],
)
def test_a_schema_error_names_its_field(change: dict[str, object], field: str) -> None:
    """LO-HTTP-024, LO-POOL-034."""
    task = {"model": "m", "prompt": "p", "max_tokens": 8, **change}
    with pytest.raises(Refusal) as caught:
        parse_contract(json.dumps(task).encode(), TaskRequest, DEPTH)
    assert caught.value.details == {"field": field}
    assert caught.value.message.startswith(f"{field}: ")
    assert "\n" not in caught.value.message


def test_a_rule_over_several_fields_needs_no_field() -> None:
    with pytest.raises(Refusal) as caught:
        parse_contract(b'{"model":"m","prompt":"p"}', TaskRequest, DEPTH)
    assert caught.value.message == "`max_tokens` is required for completion"
    assert caught.value.details is None
