"""Completeness: every name has its figure, its text, its place."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

import contracts.capabilities
import contracts.errors
import contracts.events
import contracts.pools
import contracts.proofs
import contracts.tasks
from contracts.config import NOT_SERVED, Config, unserved
from contracts.errors import RETRIABLE, STATUS, STREAM_ONLY, ErrorCode, Refusal
from contracts.ids import is_correlation_id, is_uuid, new_uuid
from contracts.metrics import LABEL_VALUES, METRICS
from contracts.model import Contract
from contracts.tasks import TERMINAL, TaskRequest, TaskState

MODULES = (
    contracts.capabilities,
    contracts.errors,
    contracts.events,
    contracts.pools,
    contracts.proofs,
    contracts.tasks,
)


def models() -> Iterator[type[BaseModel]]:
    for module in MODULES:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Contract) and value is not Contract:
                yield value


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_code_has_a_status_or_is_spoken_in_streams_only(code: ErrorCode) -> None:
    """LO-HTTP-040."""
    assert (code in STATUS) != (code in STREAM_ONLY)
    assert 400 <= STATUS.get(code, 400) < 600


def test_what_says_come_back_is_retriable() -> None:
    assert {code for code, status in STATUS.items() if status in (429, 503)} <= RETRIABLE


def test_a_refusal_keeps_its_facts_and_bounds_its_message() -> None:
    refusal = Refusal(ErrorCode.POOL_UNREADY, "x" * 5000, retry_after_ms=5, pool_id="chat")
    envelope = json.loads(refusal.envelope("c-1").model_dump_json())
    assert len(envelope.pop("message")) == 2048
    assert envelope == {
        "code": "POOL_UNREADY",
        "retriable": True,
        "retry_after_ms": 5,
        "correlation_id": "c-1",
        "pool_id": "chat",
    }


@pytest.mark.parametrize("model", list(models()), ids=lambda model: model.__name__)
def test_every_field_of_a_contract_is_described(model: type[BaseModel]) -> None:
    assert model.__doc__
    for name, field in model.model_fields.items():
        assert field.description, name


def described(schema: dict[str, object], where: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():  # type: ignore[attr-defined]
        if "description" not in field:
            yield f"{where}.{name}"


def test_every_field_of_the_config_is_described() -> None:
    """LO-SYS-017."""
    schema = Config.model_json_schema()
    sections = {"Config": schema, **schema["$defs"]}
    missing = [lack for name, section in sections.items() for lack in described(section, name)]
    assert missing == []


def test_the_defaults_are_served_and_every_unserved_key_exists() -> None:
    assert unserved(Config()) is None
    for key in NOT_SERVED:
        found: object = Config()
        for part in key.split("."):
            found = getattr(found, part)


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"artifacts": {"max_bytes": 9}}, "artifacts"),
        ({"observability": {"otlp_endpoint": "http://x"}}, "observability.otlp_endpoint"),
        ({"policy": {"http": {"allow": ["x"]}}}, "policy.http"),
    ],
)
def test_a_setting_nothing_obeys_is_refused(tree: dict[str, object], key: str) -> None:
    """LO-SYS-013."""
    refused = unserved(Config.model_validate_json(json.dumps(tree)))
    assert refused is not None
    assert refused.startswith(f"{key}: not served by this version")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_named_and_typed_by_the_rules(metric: contracts.metrics.Metric) -> None:
    """LO-MET-002."""
    assert metric.help.endswith(".")
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert list(metric.buckets) == sorted(metric.buckets)
    assert not {"task_id", "session_id", "correlation_id", "model", "path"} & set(metric.labels)


def test_metric_names_differ_and_closed_values_belong_to_a_label() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert set(LABEL_VALUES) <= {label for metric in METRICS for label in metric.labels}


@pytest.mark.parametrize("text", ["", "x" * 36, f"{new_uuid()}\n", f" {new_uuid()}", "0" * 32])
def test_only_a_whole_uuid_is_one(text: str) -> None:
    assert is_uuid(new_uuid())
    assert not is_uuid(text)


@pytest.mark.parametrize("text", ["", "a\n", "a b", "é", "x" * 129, "\x00"])
def test_a_correlation_id_is_safe_in_a_header_and_a_log(text: str) -> None:
    assert is_correlation_id("x" * 128)
    assert not is_correlation_id(text)


def test_the_terminal_states_are_the_three() -> None:
    assert {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELED} == TERMINAL


def task(**changes: object) -> str:
    return json.dumps({"model": "m", "prompt": "p", "max_tokens": 1, **changes})


def test_a_task_id_is_one_whatever_its_case() -> None:
    given = new_uuid()
    assert TaskRequest.model_validate_json(task(task_id=given.upper())).task_id == given


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": None},
        {"prompt": None},
        {"messages": [{"role": "user", "content": "x"}]},
        {"workload": "chat"},
        {"workload": "embedding"},
        {"max_tokens": 2**31},
        {"temperature": 1e9},
        {"top_p": 0},
        {"stop": ["x"] * 17},
        {"metadata": {str(number): "" for number in range(17)}},
        {"metadata": {"a": 1}},
        {"deadline_ms": 0},
    ],
)
def test_a_task_out_of_bounds_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TaskRequest.model_validate_json(task(**changes))


def test_what_is_omitted_stays_omitted() -> None:
    sent = json.loads(TaskRequest.model_validate_json(task()).model_dump_json())
    assert sent == {
        **json.loads(task()),
        "workload": "completion",
        "priority": "interactive",
    }
