"""What is generated is kept, and a stale copy is seen."""

from __future__ import annotations

import json

import pytest

from ci.regenerate import differences, generated, main
from ci.sources import ROOT
from ci.tests.conftest import Plant
from contracts.events import EVENT_MODELS
from contracts.metrics import METRICS


def test_the_kept_files_are_up_to_date() -> None:
    """LO-HTTP-060"""
    assert list(differences(ROOT, generated())) == []


def _undescribed(schema: object, path: str) -> list[str]:
    """Properties without a description, anywhere in a schema."""
    if isinstance(schema, list):
        return [found for item in schema for found in _undescribed(item, path)]
    if not isinstance(schema, dict):
        return []
    missing = [
        f"{path}.{name}"
        for name, field in schema.get("properties", {}).items()
        if "description" not in field
    ]
    nested = (_undescribed(value, f"{path}.{key}") for key, value in schema.items())
    return [*missing, *(found for finding in nested for found in finding)]


def test_every_setting_is_described() -> None:
    """LO-SYS-017"""
    schema = json.loads(generated()["contracts/schema/config.json"])
    assert schema["properties"]
    assert _undescribed(schema, "config") == []


def test_equal_code_gives_equal_bytes() -> None:
    assert generated() == generated()


def test_a_stale_or_missing_file_is_seen(plant: Plant) -> None:
    wanted = {"a.json": "{\n}\n", "b.json": "[]\n"}
    assert list(differences(plant(wanted), wanted)) == []
    root = plant({"a.json": "{\n1}\n"})
    (root / "b.json").unlink()
    stale = list(differences(root, wanted))
    assert len(stale) == 2
    assert "-1}" in stale[0]
    assert "+[]" in stale[1]


def test_check_writes_nothing(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plant({"README.md": ""})
    monkeypatch.setattr("ci.regenerate.ROOT", root)
    assert main(["--check"]) == 1
    assert not (root / "contracts").exists()
    assert main([]) == 0
    capsys.readouterr()
    assert main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_the_schema_of_events_names_every_event() -> None:
    schema = json.loads(generated()["contracts/schema/events.json"])
    assert [option["properties"]["event"]["const"] for option in schema["oneOf"]] == list(
        EVENT_MODELS
    )


def test_the_lint_file_names_every_metric() -> None:
    """LO-MET-001"""
    lint = json.loads(generated()["ci/metrics.lint.json"])
    assert {metric["name"] for metric in lint["metrics"]} == {metric.name for metric in METRICS}
