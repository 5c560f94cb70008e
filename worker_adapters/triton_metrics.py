"""The few figures of Triton's metrics page that are wanted.

Sources: Triton's "Metrics", and the metrics of its TensorRT-LLM backend, which tells
several figures in one family, apart by a label.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker_adapters.exposition import figures

PENDING = "nv_inference_pending_request_count"
REQUESTS = "nv_trt_llm_request_metrics"
KV_BLOCKS = "nv_trt_llm_kv_cache_block_metrics"


@dataclass(frozen=True)
class Figures:
    """What a server tells of its load; None where it does not."""

    active: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    """0 to 1."""


def read_figures(page: bytes) -> Figures:
    """The load of all its models; of TensorRT-LLM's own queue where there is one."""
    waiting = _labelled(page, REQUESTS, b'request_type="waiting"')
    usage = _labelled(page, KV_BLOCKS, b'kv_cache_block_type="fraction"')
    return Figures(
        active=_count(_labelled(page, REQUESTS, b'request_type="active"')),
        waiting=_count(figures(page, {PENDING}).get(PENDING) if waiting is None else waiting),
        kv_cache_usage=None if usage is None else min(1.0, max(0.0, usage)),
    )


def _labelled(page: bytes, family: str, label: bytes) -> float | None:
    """The sum over the samples of a family that bear a label."""
    begin = family.encode() + b"{"
    lines = [line for line in page.split(b"\n") if line.startswith(begin) and label in line]
    return figures(b"\n".join(lines), {family}).get(family)


def _count(figure: float | None) -> int | None:
    return None if figure is None or figure < 0 else int(figure)
