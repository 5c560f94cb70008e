"""What a person sees and what a script reads.

Results go to stdout, everything about their coming goes to stderr.  With
`--json`, stdout carries JSON only, one value per line.  Colour and spinners
appear on a terminal and nowhere else.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from llama_orch.failures import CommandFailure

# C0 but tab and newline, DEL and C1: an answer must not drive the terminal.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

TABLE_WIDTH = 240


def printable(text: str) -> str:
    """`text` with every control character but tab and newline replaced."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class Output:
    """The two streams of one command."""

    def __init__(self, *, json_mode: bool = False) -> None:
        self.json_mode = json_mode
        self.console = Console(soft_wrap=True, highlight=False)
        # A table is as wide as what it holds: an id that is cut off is of no use.
        self.console.width = max(self.console.width, TABLE_WIDTH)
        self.notes = Console(stderr=True, soft_wrap=True, highlight=False)

    def emit(self, value: Mapping[str, Any]) -> None:
        """One JSON value on one line of stdout."""
        self.write(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")

    def write(self, text: str) -> None:
        """Text to stdout as it is, at once; made harmless where it meets a terminal."""
        if sys.stdout.isatty():
            text = printable(text)
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.buffer.flush()

    def show(self, renderable: RenderableType) -> None:
        """A table or a paragraph, on stdout."""
        self.console.print(renderable)

    def note(self, text: str, style: str = "") -> None:
        """One status line, on stderr."""
        self.notes.print(Text(printable(text), style=style))

    @contextmanager
    def working(self, text: str) -> Generator[None, None, None]:
        """A spinner beside `text` on a terminal; nothing elsewhere."""
        if not self.notes.is_terminal:
            yield
            return
        with self.notes.status(printable(text)):
            yield

    def fail(self, failure: CommandFailure) -> None:
        """The one line that ends a command badly."""
        if self.json_mode:
            self.emit({"error": failure.facts()})
        else:
            self.note(f"error: {failure.message}", style="bold red")


def number(value: object) -> float | None:
    """`value` where it is a number that can be written, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def duration(milliseconds: float | None) -> str:
    """`milliseconds` as a person says it; a dash where there is none."""
    if milliseconds is None:
        return "–"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f} s"
    if milliseconds < 3_600_000:
        return f"{milliseconds / 60_000:.1f} min"
    return f"{milliseconds / 3_600_000:.1f} h"


def gibibytes(size: int | None) -> str:
    """`size` bytes in GiB; a dash where unknown."""
    return "–" if size is None else f"{size / 2**30:.1f}"
