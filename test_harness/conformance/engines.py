"""The dialects under test, and in what they differ where the suite must know it.

A new engine is one line in `DIALECTS`, a stand-in of its name in `fake_engines`,
and, where it can be had, a real one in `real_engines`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from contracts.tasks import Workload
from worker_adapters.openai_dialect import CTX_UNTOLD

GENERATION = frozenset({Workload.COMPLETION, Workload.CHAT})


@dataclass(frozen=True)
class DialectUnderTest:
    """One dialect: what its stand-in does, and which faults it has no words for."""

    name: str
    workloads: frozenset[Workload] = GENERATION
    """What its stand-in serves."""
    has_key: bool = True
    """Whether it takes an API key."""
    tells_cache: bool = True
    """Whether it tells how much of a prompt was cached."""
    tells_prompt: bool = True
    """Whether it tells how many tokens a prompt has."""
    counts_prompts: bool = True
    """Whether it counts a prompt without generating."""
    tells_busy: bool = True
    """Whether it tells how many requests it works at."""
    tells_version: bool = True
    """Whether it tells which version it is."""
    ctx: int = 4096
    """What it says its context is, started with 4096."""
    unspoken: frozenset[str] = frozenset()
    """Faults that its wire format cannot carry."""


DIALECTS: Mapping[str, DialectUnderTest] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (
            DialectUnderTest("llamacpp"),
            DialectUnderTest("tgi", tells_cache=False),
            DialectUnderTest(
                "triton",
                workloads=frozenset({Workload.COMPLETION}),
                has_key=False,
                tells_cache=False,
                counts_prompts=False,
                tells_busy=False,
                unspoken=frozenset({"no-final", "two-finals", "bad-figures"}),
            ),
            DialectUnderTest("vllm"),
            DialectUnderTest(
                "openai",
                tells_cache=False,
                counts_prompts=False,
                tells_busy=False,
                tells_version=False,
                ctx=CTX_UNTOLD,
            ),
        )
    }
)
