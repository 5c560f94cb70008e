"""`ci/venv.sh`: what a machine without the parts is told, and that no half is left."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# A python3 that is only as good as the case wants; it "makes" environments that
# contain itself, so that the steps after can be followed without a network.
PYTHON = """#!/bin/sh
case "$*" in
    -V|-VV) echo "Python {version}" ;;
    *version_info*) exit {too_old} ;;
    *ensurepip*) exit {no_ensurepip} ;;
    "-m venv"*) mkdir -p .venv/bin; [ {venv_fails} = 0 ] || exit 1
        cp "$0" .venv/bin/python; touch .venv/bin/llama-orch; chmod +x .venv/bin/llama-orch ;;
    "-m pip --version") exit 0 ;;
    *pip*install*) echo "$*" >>pip.log; exit {pip_fails} ;;
esac
"""
GOOD = {"version": "3.12.1", "too_old": 0, "no_ensurepip": 0, "venv_fails": 0, "pip_fails": 0}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "ci").mkdir()
    (tmp_path / "requirements").mkdir()
    shutil.copy(ROOT / "ci/venv.sh", tmp_path / "ci")
    for name in ("pyproject.toml", "requirements/run.txt", "requirements/test.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    return tmp_path


def prepare(checkout: Path, lock: str = "run", **wrong: Any) -> subprocess.CompletedProcess[str]:
    """Run `prepare_venv requirements/LOCK.txt` with a python3 that is `wrong` in some way."""
    python = checkout / "python3"
    python.write_text(PYTHON.format(**{**GOOD, **wrong}))
    python.chmod(0o755)
    return subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            f"source ci/venv.sh; prepare_venv requirements/{lock}.txt",
        ],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def installs(checkout: Path) -> int:
    log = checkout / "pip.log"
    return len(log.read_text().split("\n")) - 1 if log.exists() else 0


def test_the_locked_packages_come_by_hash_and_then_the_project(checkout: Path) -> None:
    assert prepare(checkout).returncode == 0
    first, second = (checkout / "pip.log").read_text().rstrip().split("\n")
    assert first.endswith("install --require-hashes -r requirements/run.txt")
    assert second.endswith("install --no-deps --no-build-isolation -e .")


def test_a_good_environment_is_left_alone(checkout: Path) -> None:
    prepare(checkout)
    again = prepare(checkout)
    assert (again.returncode, again.stderr) == (0, "")
    assert installs(checkout) == 2


def test_the_environment_of_the_tests_is_good_enough_to_run(checkout: Path) -> None:
    prepare(checkout, "test")
    assert prepare(checkout, "run").returncode == 0
    assert installs(checkout) == 2
    prepare(checkout, "run")
    assert installs(checkout) == 2


def test_the_environment_to_run_is_not_good_enough_for_the_tests(checkout: Path) -> None:
    prepare(checkout, "run")
    prepare(checkout, "test")
    assert installs(checkout) == 4


@pytest.mark.parametrize("name", ["requirements/run.txt", "pyproject.toml"])
def test_a_changed_lock_is_installed(checkout: Path, name: str) -> None:
    prepare(checkout)
    (checkout / name).write_text("other\n")
    prepare(checkout)
    assert installs(checkout) == 4


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"too_old": 1, "version": "3.9.2"}, "3.11 or newer is needed, Python 3.9.2 was found"),
        ({"no_ensurepip": 1}, "sudo apt-get install python3-venv"),
        ({"venv_fails": 1}, "is python3-venv installed?"),
    ],
    ids=["old", "no-venv", "half-venv"],
)
def test_what_is_missing_is_named_with_its_remedy_and_nothing_is_left(
    checkout: Path, wrong: dict[str, Any], remedy: str
) -> None:
    done = prepare(checkout, **wrong)
    assert done.returncode == 1
    assert remedy in done.stderr.split("\n")[-2]
    assert not (checkout / ".venv").exists()


def test_a_failed_install_is_done_again(checkout: Path) -> None:
    prepare(checkout)
    (checkout / "requirements/run.txt").write_text("other\n")
    # The environment's own python is the one that installs.
    (checkout / ".venv/bin/python").write_text(PYTHON.format(**{**GOOD, "pip_fails": 1}))
    assert prepare(checkout).returncode == 1
    assert not (checkout / ".venv/locked").exists()
    (checkout / ".venv/bin/python").write_text(PYTHON.format(**GOOD))
    assert prepare(checkout).returncode == 0
    assert (checkout / ".venv/locked").exists()
