"""What the figures are made of: quantiles of a histogram, a load that can be replayed."""

from __future__ import annotations

import math
import os
import time

import pytest

from test_harness.bench.dialects import SAMPLES, Sample, chunks_of, compare
from test_harness.bench.loop_lag import quantile
from test_harness.bench.processes import cpu_seconds
from test_harness.bench.replayed_load import MAX_TOKENS, Job, Pace, Wait, jobs_of

PACE = Pace(token_ms=10.0, prefill_ms_per_token=1.0, slots=2)
JOB = Job(at_s=0.0, priority="interactive", prompt="a", output_tokens=1, guess=1)


def test_a_quantile_lies_within_its_bucket_as_prometheus_has_it() -> None:
    buckets = {0.01: 90.0, 0.1: 100.0, math.inf: 100.0}
    assert quantile(buckets, 0.9) == pytest.approx(0.01)
    assert quantile(buckets, 0.95) == pytest.approx(0.055)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile({0.01: 1.0, 0.1: 1.0, math.inf: 2.0}, 0.99) == 0.1


def test_nothing_observed_is_no_lag() -> None:
    assert quantile({0.01: 0.0, math.inf: 0.0}, 0.99) == 0.0


def test_the_clock_of_a_process_is_its_processor_time() -> None:
    before = cpu_seconds(os.getpid())
    assert before == pytest.approx(time.process_time(), abs=0.05)


def test_a_seed_replays_a_load_within_its_bounds() -> None:
    jobs = jobs_of(7, 100, PACE, load=0.9)
    assert jobs == jobs_of(7, 100, PACE, load=0.9)
    assert jobs != jobs_of(8, 100, PACE, load=0.9)
    assert all(4 <= job.output_tokens <= 200 < MAX_TOKENS for job in jobs)
    assert [job.at_s for job in jobs] == sorted(job.at_s for job in jobs)
    assert all(job.prompt.endswith(f"len={job.output_tokens}") for job in jobs)
    assert {job.priority for job in jobs} == {"interactive", "batch"}


def test_a_prediction_is_judged_by_its_share_of_the_wait() -> None:
    wait = Wait(JOB, position=3, predicted_ms=500.0, waited_ms=1000.0)
    assert wait.error == 0.5
    assert wait.within_twice
    assert not Wait(JOB, position=3, predicted_ms=499.0, waited_ms=1000.0).within_twice


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.dialect)
def test_a_stream_of_any_length_is_made_of_recorded_events(sample: Sample) -> None:
    chunks = chunks_of(sample, 50)
    assert len(chunks) == sample.opening + 50 + sample.closing
    assert all(chunk.startswith(b"data:") and chunk.endswith(b"\n\n") for chunk in chunks)


def test_the_cost_of_an_event_is_measured_for_each_dialect() -> None:
    """LO-WRK-118: the whole stream is read as tokens and one end, or nothing is measured."""
    figures = compare(rounds=1, events=200).figures
    assert [figure.name for figure in figures if figure.aim] == [
        f"{sample.dialect}: an event" for sample in SAMPLES
    ]
