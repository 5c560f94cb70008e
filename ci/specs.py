"""The numbered requirements: `python -m ci.specs [ROOT]`.

A requirement is one list item of a file in `.specs/`, like

    - **LO-ORC-007** A task MUST reach exactly one terminal state.

An id is given once and never again, one requirement says one thing, and a test
cites the ids it proves.  Unknown and repeated ids fail; requirements that no
test cites are printed, and fail nothing.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ci.links import markdown_files
from ci.sources import PACKAGES, Finding, report, root_from_argv

ID = re.compile(r"\bLO-[A-Z]{2,8}-[0-9]{3}\b")
_ITEM = re.compile(r"- \*\*(LO-[A-Z]{2,8}-[0-9]{3})\*\* (.*)")
_WORDS = re.compile(r"\b(MUST NOT|MUST|SHOULD NOT|SHOULD|MAY)\b")

EXAMPLES = frozenset({"specs.py", "test_specs.py"})
"""Files whose ids are examples."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement as it is written."""

    id: str
    text: str
    path: str
    line: int


def requirements(root: Path) -> list[Requirement]:
    """Every requirement in `.specs/`, in order."""
    found: list[Requirement] = []
    for path in sorted((root / ".specs").glob("*.md")):
        lines = path.read_text("utf-8").split("\n")
        for index, line in enumerate(lines):
            item = _ITEM.fullmatch(line)
            if item:
                rest = _continuation(lines[index + 1 :])
                text = " ".join([item[2], *rest])
                found.append(Requirement(item[1], text, str(path.relative_to(root)), index + 1))
    return found


def check(root: Path) -> Iterator[Finding]:
    """Repeated and unknown ids, and items that are no single requirement."""
    known = requirements(root)
    first: dict[str, Requirement] = {}
    for requirement in known:
        other = first.setdefault(requirement.id, requirement)
        if other is not requirement:
            yield _finding(
                requirement, f"is defined in {other.path}:{other.line} too: give it a new number"
            )
        words = len(_WORDS.findall(requirement.text))
        if words != 1:
            yield _finding(
                requirement,
                f"has {words} of MUST, SHOULD and MAY: write one sentence with one of them",
            )
    for path, line, cited in citations(root):
        if cited not in first:
            yield Finding(path, line, f"{cited} is not in .specs/: cite one that is")


def citations(root: Path) -> Iterator[tuple[str, int, str]]:
    """Where ids are named, in Python and in Markdown: path, line, id."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    for path in (*files, *markdown_files(root)):
        if path.name in EXAMPLES:
            continue
        for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
            for found in ID.finditer(line):
                yield str(path.relative_to(root)), number, found[0]


def coverage(root: Path) -> dict[str, int]:
    """How many times the tests cite each requirement."""
    cited = Counter(
        found for path, _, found in citations(root) if Path(path).name.startswith("test_")
    )
    return {requirement.id: cited[requirement.id] for requirement in requirements(root)}


def main() -> int:
    """Print the coverage, then what is wrong."""
    root = root_from_argv()
    counts = coverage(root)
    uncited: dict[str, list[str]] = {}
    for requirement, count in counts.items():
        if not count:
            area, _, number = requirement.rpartition("-")
            uncited.setdefault(area, []).append(number)
    missing = sum(map(len, uncited.values()))
    print(f"{len(counts) - missing} of {len(counts)} requirements are cited by tests")
    for area, numbers in uncited.items():
        print(f"  not cited: {area}-{' '.join(numbers)}")
    return report(check(root))


def _continuation(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("  "):
            return
        yield line.strip()


def _finding(requirement: Requirement, message: str) -> Finding:
    return Finding(requirement.path, requirement.line, f"{requirement.id} {message}")


if __name__ == "__main__":
    sys.exit(main())
