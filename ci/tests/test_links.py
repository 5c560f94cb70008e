"""A dead link is planted and found."""

from __future__ import annotations

import pytest

from ci.links import anchors, check, slug_of
from ci.sources import ROOT
from ci.tests.conftest import Plant


def found(plant: Plant, text: str) -> list[str]:
    files = {"docs/page.md": text, "docs/other.md": "# Two Words\n", "run": "", "a b.md": ""}
    return [str(finding) for finding in check(plant(files))]


def test_the_links_of_this_repository_lead_somewhere() -> None:
    assert [str(finding) for finding in check(ROOT)] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[x](missing.md)", "no such file"),
        ("see\n\n![x](../image.png)", "no such file"),
        ('[x](missing.md "a title")', "no such file"),
        ("[`code` in it](missing.md)", "no such file"),
        ("[x]: missing.md", "no such file"),
        ("[x](other.md#three-words)", "no such heading"),
        ("[x](#nowhere)", "no such heading"),
        ("[x](/docs/other.md)", "a link is relative to its file"),
        ("[x](../../elsewhere.md)", "it leaves the repository"),
        ("```\n[a](no.md)\n```\n[x](missing.md)", "no such file"),
    ],
)
def test_a_dead_link_is_found(plant: Plant, text: str, reason: str) -> None:
    [finding] = found(plant, text)
    assert finding.startswith(f"docs/page.md:{text.count(chr(10)) + 1}: dead link ")
    assert reason in finding


@pytest.mark.parametrize(
    "text",
    [
        "[x](other.md)",
        "[x](other.md#two-words)",
        "# Here\n[x](#here)",
        "[x](../run)",
        "[x](../docs/)",
        "[x](<../a%20b.md>)",
        "[x](https://example.org/missing.md)",
        "[x](mailto:a@example.org)",
        "`[x](missing.md)`",
        "```sh\n[x](missing.md)\n```",
        "~~~\n```\n[x](missing.md)\n~~~",
        "a[0](b)".replace("(b)", " (b)"),
    ],
)
def test_a_live_link_is_left_alone(plant: Plant, text: str) -> None:
    assert found(plant, text) == []


def test_anchors_follow_the_headings() -> None:
    text = '# One & two\n## `code` here\n## Same\n## Same\n<a id="own"></a>\n```\n# not one\n```\n'
    assert anchors(text) == {"one--two", "code-here", "same", "same-1", "own"}
    assert slug_of("R4: [limits](x.md), all of them") == "r4-limits-all-of-them"
