"""Requirement ids are unique, whole, and known where they are cited."""

from __future__ import annotations

import pytest

from ci.sources import ROOT
from ci.specs import check, coverage, main, requirements
from ci.tests.conftest import Plant

SPEC = """# A
- **LO-AAA-001** It MUST do one thing,
  over two lines.
- **LO-AAA-002** It SHOULD do another.
"""


def found(plant: Plant, files: dict[str, str]) -> list[str]:
    return [str(finding) for finding in check(plant(files))]


def test_the_specs_of_this_repository_are_sound() -> None:
    assert requirements(ROOT)
    assert [str(finding) for finding in check(ROOT)] == []


def test_a_requirement_may_run_over_lines(plant: Plant) -> None:
    one, two = requirements(plant({".specs/a.md": SPEC}))
    assert (one.id, one.text) == ("LO-AAA-001", "It MUST do one thing, over two lines.")
    assert (two.path, two.line) == (".specs/a.md", 4)


def test_an_id_given_twice_is_found(plant: Plant) -> None:
    again = "- **LO-AAA-001** It MUST do something else.\n"
    [finding] = found(plant, {".specs/a.md": SPEC, ".specs/b.md": again})
    assert finding.startswith(".specs/b.md:1: LO-AAA-001 is defined in .specs/a.md:2 too")


@pytest.mark.parametrize("text", ["It MUST do one and MUST NOT do two.", "It does one thing."])
def test_an_item_with_no_or_two_demands_is_found(plant: Plant, text: str) -> None:
    [finding] = found(plant, {".specs/a.md": f"- **LO-AAA-001** {text}\n"})
    assert "write one sentence with one of them" in finding


@pytest.mark.parametrize("path", ["contracts/tests/test_ids.py", "contracts/ids.py", "README.md"])
def test_an_unknown_id_is_found_wherever_it_is_cited(plant: Plant, path: str) -> None:
    text = "# LO-AAA-002\n# LO-AAA-999\n"
    assert found(plant, {".specs/a.md": SPEC, path: text}) == [
        f"{path}:2: LO-AAA-999 is not in .specs/: cite one that is"
    ]


def test_only_tests_cover_a_requirement(plant: Plant) -> None:
    root = plant(
        {
            ".specs/a.md": SPEC,
            "contracts/ids.py": '"""LO-AAA-001"""\n',
            "contracts/tests/test_ids.py": '"""LO-AAA-002 and LO-AAA-002."""\n',
        }
    )
    assert coverage(root) == {"LO-AAA-001": 0, "LO-AAA-002": 2}


def test_what_no_test_cites_is_told_and_fails_nothing(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plant({".specs/a.md": SPEC, "contracts/tests/test_ids.py": "# LO-AAA-001\n"})
    monkeypatch.setattr("sys.argv", ["specs", str(root)])
    assert main() == 0
    assert capsys.readouterr().out == (
        "1 of 2 requirements are cited by tests\n  not cited: LO-AAA-002\n"
    )
