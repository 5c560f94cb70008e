"""Every relative link in the Markdown files leads somewhere: `python -m ci.links [ROOT]`.

Files and `#anchors` are looked up; addresses on the network are not, since a
check that fails with somebody else's server teaches people to ignore it.
Anchors follow GitHub's rule: the heading in lower case, without punctuation,
spaces as hyphens, repeats numbered.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from ci.sources import Finding, report, root_from_argv

SKIPPED = frozenset({".git", ".venv", "build", "dist", "node_modules"})
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_CODE = re.compile(r"(`+)(?:(?!`).)+?\1")
_INLINE = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^\s)>]+)>?(?:\s+[\"'][^)]*)?\)")
_REFERENCE = re.compile(r" {0,3}\[[^\]]+\]:\s*<?([^\s>]+)>?")
_HEADING = re.compile(r" {0,3}#{1,6}\s+(.*?)\s*#*\s*")
_HTML_ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)[\"']")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def markdown_files(root: Path) -> list[Path]:
    """Every Markdown file that is ours."""
    return sorted(
        path
        for path in root.rglob("*.md")
        if not SKIPPED.intersection(path.relative_to(root).parts)
        and ".pytest_cache" not in str(path)
    )


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines outside fenced code, with inline code blanked out."""
    fence: str | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        mark = _FENCE.match(line)
        if fence is not None:
            if mark and mark[1].startswith(fence):
                fence = None
        elif mark:
            fence = mark[1]
        else:
            yield number, line


def links(text: str) -> Iterator[tuple[int, str]]:
    """The target of each link, with its line."""
    for number, line in prose(text):
        plain = _CODE.sub("", line)
        for found in _INLINE.finditer(plain):
            yield number, found[1]
        reference = _REFERENCE.match(plain)
        if reference:
            yield number, reference[1]


def anchors(text: str) -> set[str]:
    """What `#…` can name in a Markdown file."""
    found: set[str] = set()
    for _, line in prose(text):
        found.update(_HTML_ANCHOR.findall(line))
        heading = _HEADING.fullmatch(line)
        if heading:
            slug = slug_of(heading[1])
            repeat, unique = 0, slug
            while unique in found:
                repeat += 1
                unique = f"{slug}-{repeat}"
            found.add(unique)
    return found


def slug_of(heading: str) -> str:
    """The anchor of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def check(root: Path) -> Iterator[Finding]:
    """Links that lead nowhere."""
    for path in markdown_files(root):
        text = path.read_text("utf-8")
        for line, target in links(text):
            reason = _dead(root, path, target)
            if reason:
                yield Finding(
                    str(path.relative_to(root)), line, f"dead link {target}: {reason}; mend it"
                )


def _dead(root: Path, source: Path, target: str) -> str | None:
    if _SCHEME.match(target):
        return None
    name, _, anchor = unquote(target).partition("#")
    if name.startswith("/"):
        return "a link is relative to its file"
    goal = (source.parent / name).resolve() if name else source
    if not goal.is_relative_to(root.resolve()):
        return "it leaves the repository"
    if not goal.exists():
        return "no such file"
    if anchor and goal.suffix == ".md" and anchor not in anchors(goal.read_text("utf-8")):
        return "no such heading"
    return None


if __name__ == "__main__":
    sys.exit(report(check(root_from_argv())))
