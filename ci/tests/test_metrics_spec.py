"""The table of metrics in the spec and the list in the code are the same set."""

from __future__ import annotations

import re

from ci.sources import ROOT
from contracts.metrics import LABEL_VALUES, METRICS

_ROW = re.compile(r"\| `([a-z_-]+)` \| (\w+) \| ([^|]*) \| (\w+) \| (.+) \|")
_VALUES = re.compile(r"\| `([a-z_-]+)` \| ((?:`[a-z0-9_-]+`(?:, )?)+) \|")
TEXT = (ROOT / ".specs" / "metrics.md").read_text("utf-8")


def test_the_spec_lists_the_metrics_that_are_served() -> None:
    """LO-MET-001: names, types, labels, daemons and meanings."""
    written = {
        (row[1], row[2], tuple(re.findall(r"`([a-z_-]+)`", row[3])), row[4], row[5])
        for row in map(_ROW.fullmatch, TEXT.split("\n"))
        if row
    }
    assert written == {
        (metric.name, metric.kind, metric.labels, metric.daemon, metric.help) for metric in METRICS
    }


def test_the_spec_lists_the_closed_label_values() -> None:
    """LO-MET-004"""
    written = {
        row[1]: tuple(re.findall(r"`([a-z0-9_-]+)`", row[2]))
        for row in map(_VALUES.fullmatch, TEXT.split("\n"))
        if row
    }
    assert written == LABEL_VALUES
