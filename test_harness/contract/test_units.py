"""The example units of systemd: what they promise is what the daemons keep."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path

import pytest

from contracts.config import Timeouts
from contracts.service.daemon import (
    EXIT_BAD_CONFIG,
    EXIT_STATE_DAMAGED,
    HARD_STOP_MARGIN_SECONDS,
    LEAVE_MARGIN_SECONDS,
)
from orchestratord.runtime.housekeeping import TURNING_S
from pool_managerd.leasing import TURNING_MS

UNITS = Path(__file__).parents[2] / "examples" / "systemd"
DAEMONS = {"llama-orch.service": "orchestratord", "llama-orch-pools.service": "pool_managerd"}


def keys_of(name: str) -> dict[str, dict[str, str]]:
    """`name` by systemd.syntax(7): sections of `KEY=VALUE`, none of them twice."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    section = ""
    for line in (UNITS / name).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            continue
        key, equals, value = line.partition("=")
        assert equals, f"{name}: {line}"
        assert key not in found[section], f"{name}: {key} is there twice"
        found[section][key] = value
    return found


def test_there_is_a_unit_for_each_daemon() -> None:
    assert {path.name for path in UNITS.iterdir()} == set(DAEMONS)


@pytest.mark.parametrize("name", DAEMONS)
def test_a_unit_asks_for_what_its_daemon_does(name: str) -> None:
    """LO-SYS-070, LO-SYS-071, LO-SYS-072."""
    service = keys_of(name)["Service"]
    assert service["Type"] == "notify-reload"
    assert service["Restart"] == "on-failure"
    never = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert never == {EXIT_STATE_DAMAGED, EXIT_BAD_CONFIG}
    program, _, module = service["ExecStart"].rpartition(" -m ")
    assert module == DAEMONS[name]
    assert program.startswith("%h/"), "a unit of a user"
    assert importlib.util.find_spec(f"{module}.__main__") is not None


@pytest.mark.parametrize("name", DAEMONS)
def test_a_unit_is_patient_enough(name: str) -> None:
    """LO-SYS-072: with loops that are told dead late, and a drain that may take its time."""
    service, timeouts = keys_of(name)["Service"], Timeouts()
    assert float(service["WatchdogSec"]) / 2 > max(TURNING_S, TURNING_MS / 1000)
    stop_s = (timeouts.drain_ms + timeouts.stop_grace_ms) / 1000
    margins_s = HARD_STOP_MARGIN_SECONDS + LEAVE_MARGIN_SECONDS
    assert float(service["TimeoutStopSec"]) > stop_s + margins_s


def test_engines_outlive_the_crash_of_their_manager_only() -> None:
    """LO-POOL-125."""
    service = keys_of("llama-orch-pools.service")["Service"]
    assert service["KillMode"] == "process"
    assert service["OOMPolicy"] == "continue"
    assert "KillMode" not in keys_of("llama-orch.service")["Service"]


def test_orchestratord_starts_after_the_pools_and_does_without() -> None:
    unit = keys_of("llama-orch.service")["Unit"]
    assert unit["Wants"] == unit["After"] == "llama-orch-pools.service"
    assert "Requires" not in unit
