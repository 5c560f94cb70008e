"""What all generations of one stand-in engine share."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass, field


@dataclass
class Engine:
    """Its options, and what it has done."""

    options: argparse.Namespace
    sent: int = 0
    """Tokens, over all streams."""
    prefills: int = 0
    """Prompts under evaluation."""
    prefilled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there is none of them."""
    deaf: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.prefilled.set()

    def prefilling(self, change: int) -> None:
        """One prompt more, or one less."""
        self.prefills += change
        if self.prefills:
            self.prefilled.clear()
        else:
            self.prefilled.set()
