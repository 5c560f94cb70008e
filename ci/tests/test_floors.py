"""Each rule on imports is planted and seen."""

from __future__ import annotations

import itertools

import pytest

from ci.floors import check, unit_of
from ci.sources import ROOT, Sources, report
from ci.tests.conftest import Plant


def found(plant: Plant, files: dict[str, str]) -> list[str]:
    return [str(finding) for finding in check(Sources(plant(files)))]


def test_this_repository_keeps_its_own_rules() -> None:
    """LO-SYS-003, LO-SYS-004, LO-SYS-005, LO-SYS-033"""
    assert [str(finding) for finding in check(Sources(ROOT))] == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("contracts/tasks.py", "contracts.service.app"),
        ("contracts/tasks.py", "worker_adapters.base"),
        ("contracts/service/app.py", "worker_adapters.base"),
        ("contracts/service/app.py", "orchestratord.app"),
        ("worker_adapters/base.py", "pool_managerd.app"),
        ("orchestratord/app.py", "pool_managerd.app"),
        ("pool_managerd/app.py", "orchestratord.app"),
        ("orchestratord/app.py", "llama_orch.main"),
        ("llama_orch/main.py", "orchestratord.app"),
        ("llama_orch/main.py", "worker_adapters.base"),
        ("llama_orch/main.py", "contracts.service.app"),
        ("llama_orch/main.py", "test_harness.fakes"),
        ("ci/specs.py", "test_harness.fakes"),
        ("orchestratord/tests/test_app.py", "pool_managerd.app"),
        ("contracts/tests/test_tasks.py", "orchestratord.app"),
    ],
)
def test_an_import_up_or_sideways_is_found(plant: Plant, importer: str, imported: str) -> None:
    findings = found(plant, {importer: f"import sys\nimport {imported}\n"})
    assert len(findings) == 1
    assert findings[0].startswith(f"{importer}:2: ")
    assert f"may not import {imported}" in findings[0]


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("contracts/service/app.py", "contracts.tasks"),
        ("worker_adapters/base.py", "contracts.service.settings"),
        ("orchestratord/app.py", "worker_adapters.base"),
        ("pool_managerd/app.py", "worker_adapters.base"),
        ("llama_orch/main.py", "contracts.tasks"),
        ("llama_orch/main.py", "contracts.service.settings"),
        ("llama_orch/main.py", "contracts.service.run_files"),
        ("test_harness/stack.py", "pool_managerd.app"),
        ("orchestratord/tests/test_app.py", "test_harness.stack"),
        ("contracts/tests/test_http.py", "contracts.service.app"),
        ("ci/regenerate.py", "orchestratord.app"),
    ],
)
def test_an_import_down_is_fine(plant: Plant, importer: str, imported: str) -> None:
    path = imported.replace(".", "/") + ".py"
    assert found(plant, {importer: f"import {imported}\n", path: ""}) == []


def test_the_service_of_contracts_is_a_floor_of_its_own() -> None:
    assert unit_of("contracts.service.app") == "contracts.service"
    assert unit_of("contracts.services") == "contracts"
    assert unit_of("starlette.routing") == ""


def test_a_module_named_by_from_is_the_module_imported(plant: Plant) -> None:
    findings = found(
        plant,
        {
            "contracts/service/settings.py": "",
            "contracts/service/app.py": "",
            "llama_orch/main.py": "from contracts.service import app, settings\n",
        },
    )
    assert [finding for finding in findings if "contracts.service.app" in finding] == findings
    assert len(findings) == 1


@pytest.mark.parametrize("importer", ["queue", "__init__"])
def test_a_relative_import_is_resolved(plant: Plant, importer: str) -> None:
    findings = found(
        plant,
        {
            f"orchestratord/domain/{importer}.py": "from ..runtime import dispatcher\n",
            "orchestratord/runtime/dispatcher.py": "",
        },
    )
    assert len(findings) == 1
    assert "domain may not import runtime" in findings[0]


@pytest.mark.parametrize("library", ["starlette", "msgspec", "yaml"])
def test_floor_zero_stands_on_the_standard_library_and_pydantic(plant: Plant, library: str) -> None:
    files = {"contracts/ids.py": f"import re\nimport pydantic\nimport {library}.core\n"}
    [finding] = found(plant, files)
    assert finding.startswith(f"contracts/ids.py:3: contracts may not import {library};")
    assert found(plant, {"contracts/ids.py": "", "contracts/service/x.py": "import yaml\n"}) == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("errors", "domain.queue"),
        ("domain/queue", "runtime.dispatcher"),
        ("domain/queue", "clock"),
        ("domain/queue", "stores.tasks"),
        ("stores/tasks", "runtime.dispatcher"),
        ("supervisor", "http.pools"),
        ("runtime/dispatcher", "http.tasks"),
        ("runtime/dispatcher", "services"),
        ("http/tasks", "app"),
        ("http/tasks", "stores.tasks"),
        ("http/tasks", "clients.pools"),
    ],
)
@pytest.mark.parametrize("daemon", ["orchestratord", "pool_managerd"])
def test_an_import_up_inside_a_daemon_is_found(
    plant: Plant, daemon: str, importer: str, imported: str
) -> None:
    findings = found(plant, {f"{daemon}/{importer}.py": f"import {daemon}.{imported}\n"})
    assert len(findings) == 1
    assert f"({daemon}.{imported})" in findings[0]


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("domain/queue", "errors"),
        ("runtime/dispatcher", "stores.tasks"),
        ("runtime/dispatcher", "domain.queue"),
        ("stores/tasks", "errors"),
        ("stores/tasks", "clock"),
        ("http/tasks", "runtime.dispatcher"),
        ("services", "clients.pools"),
        ("__main__", "services"),
        ("tests/test_all", "http.tasks"),
    ],
)
def test_an_import_down_inside_a_daemon_is_fine(plant: Plant, importer: str, imported: str) -> None:
    files = {f"orchestratord/{importer}.py": f"import orchestratord.{imported}\n"}
    assert found(plant, files) == []


def test_a_cycle_is_found_even_where_each_import_is_allowed(plant: Plant) -> None:
    [finding] = found(
        plant,
        {
            "contracts/a.py": "from contracts.b import b\n",
            "contracts/b.py": "import contracts.c\n",
            "contracts/c.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from contracts import a\n",
        },
    )
    way = finding.partition("import cycle: ")[2].partition(":")[0].split(" -> ")
    assert sorted(set(way)) == ["contracts.a", "contracts.b", "contracts.c"]
    assert way[0] == way[-1]
    following = {"contracts.a": "contracts.b", "contracts.b": "contracts.c"}
    assert all(following.get(a, "contracts.a") == b for a, b in itertools.pairwise(way))


def test_an_import_inside_a_function_is_found(plant: Plant) -> None:
    text = "def f() -> None:\n    import json\n    from contracts import ids\n"
    [finding] = found(plant, {"worker_adapters/base.py": text, "contracts/ids.py": ""})
    assert finding.startswith("worker_adapters/base.py:3: contracts.ids is imported inside")


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "base_service", "manager"])
def test_a_name_that_says_nothing_is_found(plant: Plant, name: str) -> None:
    expected = f"no module is named `{name}`: name it for what it holds"
    assert found(plant, {f"orchestratord/{name}.py": "", f"llama_orch/{name}/shown.py": ""}) == [
        f"orchestratord/{name}.py:1: {expected}",
        f"llama_orch/{name}/shown.py:1: {expected}",
    ]


def test_findings_become_lines_and_an_exit_code(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plant({"contracts/utils.py": ""})
    assert report(check(Sources(root))) == 1
    assert capsys.readouterr().out.startswith("contracts/utils.py:1: ")
    (root / "contracts/utils.py").unlink()
    assert report(check(Sources(root))) == 0
