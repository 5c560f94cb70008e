"""Rates that are learned, how far predictions are off, and what is left of a running task."""

from __future__ import annotations

import random
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.domain.prediction import (
    FULL_WEIGHT_TOKENS,
    LIVE_TOKENS,
    NO_PACE,
    PRIOR_FADES,
    PRIOR_RATIOS,
    RATIOS_KEPT,
    WEIGHT,
    AttemptProgress,
    Average,
    ErrorRatios,
    Pace,
    PoolRates,
    Work,
)
from orchestratord.tests.domain.scheduling import REPEATABLE

MUCH = 1e6
"""Certainty of what was seen often."""


def progress(
    *,
    prompt: int = 1_000,
    cached: int | None = None,
    first: float | None = 10.5,
    last: float | None = 12.5,
    out: int = 101,
) -> AttemptProgress:
    """An attempt that was started at 10 s."""
    return AttemptProgress(9.0, 10.0, None, first, last, out, prompt, cached)


def rates(share: float | None = None) -> PoolRates:
    """Half a millisecond for a token of prompt and 20 for one of output."""
    return PoolRates(Average(0.5, MUCH), Average(20.0, MUCH), output_share=Average(share))


# -- what is learned -------------------------------------------------------


def test_rates_are_learned_from_an_attempt_that_ended() -> None:
    """LO-ORC-128: 1,000 tokens in half a second, then 100 in two."""
    learned = PoolRates()
    assert not learned.known
    learned.learn(progress(), 101, 202)
    assert (learned.prefill_ms.value, learned.decode_ms.value) == (0.5, 20.0)
    assert learned.output_share.value == 0.5
    assert learned.known


def test_tokens_from_the_cache_were_not_evaluated() -> None:
    learned = PoolRates()
    learned.learn(progress(cached=600), 101, 101)
    assert learned.prefill_ms.value == pytest.approx(500 / 400)


@pytest.mark.parametrize(
    ("attempt", "out"),
    [
        (progress(first=None, last=None, out=0), 0),
        (AttemptProgress(9.0, None, None, 10.5, 12.5, 101, 10), 101),
    ],
)
def test_nothing_is_learned_from_an_attempt_without_a_token(
    attempt: AttemptProgress, out: int
) -> None:
    learned = PoolRates()
    learned.learn(attempt, out, 101)
    assert learned == PoolRates(ratios=learned.ratios)


def test_one_token_tells_nothing_of_decoding_and_a_cached_prompt_nothing_of_prefill() -> None:
    learned = PoolRates()
    learned.learn(progress(cached=1_000, last=10.5, out=1), 1, 100)
    assert (learned.prefill_ms.value, learned.decode_ms.value) == (None, None)
    assert learned.output_share.value == 0.01


def test_an_engine_that_passed_the_limit_has_used_all_and_no_more() -> None:
    learned = PoolRates()
    learned.learn(progress(), 101, 100)
    assert learned.output_share.value == 1.0


def test_an_average_begins_as_a_plain_mean_and_then_forgets() -> None:
    average = Average()
    for observed, mean in ((100.0, 100.0), (0.0, 50.0), (20.0, 40.0)):
        average.add(observed)
        assert average.value == pytest.approx(mean)
    average = Average(100.0, MUCH)
    average.add(0.0)
    assert average.value == pytest.approx(100 * (1 - WEIGHT))
    for _ in range(40):
        average.add(10.0)
    assert average.value == pytest.approx(10.0, rel=0.02)


def test_a_pace_seen_over_few_tokens_weighs_less() -> None:
    learned = rates()
    learned.learn(progress(prompt=8, out=9), 9, 100)
    share = WEIGHT * 8 / FULL_WEIGHT_TOKENS
    assert learned.decode_ms.value == pytest.approx(20 + share * (2_000 / 8 - 20))
    assert learned.prefill_ms.value == 0.5


def test_what_is_certain_replaces_what_was_not() -> None:
    average = Average()
    average.add(1_000.0, 0.01)
    average.add(10.0)
    assert average.value == pytest.approx(10 + 990 / 101)


def test_the_first_token_of_a_tiny_prompt_tells_nothing_of_long_ones() -> None:
    """LO-ORC-128: what comes before any prefill is a cost of each task, and not of each token."""
    learned = PoolRates()
    learned.learn(progress(prompt=1, first=10.006, last=10.106, out=11), 11, 11)
    assert learned.prefill_ms.value is None
    assert learned.first_token_ms.value == pytest.approx(6)
    found = learned.run_ms(Work.of(20_000, 10, None))
    assert found == pytest.approx(6 + 10 * 10)
    learned.learn(progress(prompt=1_000, first=10.506), 101, 101)
    assert learned.prefill_ms.value == pytest.approx(0.5)


# -- what work takes -------------------------------------------------------


def test_work_is_prompt_and_output_over_their_rates_and_what_each_task_costs_beside() -> None:
    found = rates(share=0.5)
    found.overhead_ms.add(7.0)
    work = Work.of(200, 100, None) + Work.of(100, 100, 20)
    assert work == Work(2, 300, 20, 100)
    assert found.run_ms(work) == pytest.approx(300 * 0.5 + (20 + 50) * 20 + 2 * 7)


def test_output_is_guessed_in_full_until_something_was_seen() -> None:
    assert rates().run_ms(Work.of(0, 100, None)) == pytest.approx(2_000)


def test_an_expectation_beyond_the_limit_is_the_limit() -> None:
    assert Work.of(1, 100, 500) == Work.of(1, 100, 100) == Work(1, 1, 100, 0)


def test_nothing_is_said_until_a_rate_is_known() -> None:
    work = Work.of(10, 10, None)
    assert PoolRates().run_ms(work) is None
    assert PoolRates().remaining_ms(work, 10, progress(), 12.0) is None


@pytest.mark.parametrize(
    ("attempt", "now", "left_ms"),
    [
        (AttemptProgress(10.0), 10.0, 1_500),
        (progress(first=None, last=None, out=0), 10.25, 1_250),
        (progress(first=None, last=None, out=0), 99.0, 1_000),
        (progress(last=10.5, out=1), 10.5, 980),
        (progress(last=11.0, out=40), 11.0, 200),
        (progress(last=11.0, out=60), 11.0, 120),
        (progress(last=12.0, out=98), 12.0, 40),
        (progress(last=12.0, out=100), 12.0, 0),
        (progress(last=12.0, out=101), 12.0, 0),
    ],
    ids=str,
)
def test_what_a_running_task_still_takes(
    attempt: AttemptProgress, now: float, left_ms: float
) -> None:
    """1,000 tokens of prompt and 50 expected of 100: half a second and one second."""
    left = rates().remaining_ms(Work.of(1_000, 100, 50), 100, attempt, now)
    assert left == pytest.approx(left_ms)


def test_the_pace_of_what_runs_counts_for_more_the_more_tokens_it_has_shown() -> None:
    """LO-ORC-128: ten times slower than the average."""
    work = Work.of(0, 1, 1)
    found = [
        rates().run_ms(work, Pace(t, 200 * t)) for t in (0, LIVE_TOKENS // 2, LIVE_TOKENS, 999)
    ]
    assert found == pytest.approx([20, 110, 200, 200])
    left = rates().remaining_ms(
        work, 1, AttemptProgress(0.0), 0.0, Pace(LIVE_TOKENS, 200 * LIVE_TOKENS)
    )
    assert left == pytest.approx(200)


def test_a_pace_is_that_of_all_running_tasks_together() -> None:
    silent = AttemptProgress(10.0)
    assert Pace.of([]) == Pace.of([silent]) == NO_PACE
    slow = progress(first=10.0, last=13.0, out=11)
    assert Pace.of([silent, progress(), slow]) == Pace(110, 5_000)


# -- how far predictions are off -------------------------------------------


def naive_chance(seen: list[float], bound: float) -> float:
    """Counted one by one: seen ratios, and a prior that fades as they come in."""
    newest = seen[-RATIOS_KEPT:]
    prior = max(0.0, 1 - len(newest) / PRIOR_FADES)
    early = sum(ratio <= bound for ratio in newest) + prior * sum(r <= bound for r in PRIOR_RATIOS)
    return early / (len(newest) + prior * len(PRIOR_RATIOS))


def test_before_anything_was_seen_predictions_may_be_off_by_four_either_way() -> None:
    """LO-ORC-122."""
    ratios = ErrorRatios()
    found = [ratios.chance(1_000, allowed) for allowed in (249, 250, 1_000, 3_999, 4_000)]
    assert found == pytest.approx([0, 1 / 7, 4 / 7, 6 / 7, 1])


def test_a_chance_is_the_share_of_errors_that_would_have_been_early_enough() -> None:
    chance, ratios, seen = random.Random(5), ErrorRatios(), list[float]()
    for _ in range(2 * RATIOS_KEPT):
        seen.append(chance.choice((0.5, 1.0, chance.lognormvariate(0, 0.5))))
        ratios.add(seen[-1])
        bound = chance.uniform(0, 3)
        assert ratios.chance(1_000, 1_000 * bound) == pytest.approx(naive_chance(seen, bound))
    assert ratios._sorted == sorted(seen[-RATIOS_KEPT:])
    assert bisect_right(ratios._sorted, 1.0) / RATIOS_KEPT == ratios.chance(1_000, 1_000)


def test_what_is_over_is_certain_and_what_has_no_time_left_is_hopeless() -> None:
    ratios = ErrorRatios()
    assert ratios.chance(0, 1) == ratios.chance(-5, 1) == 1
    assert ratios.chance(0, 0) == ratios.chance(10, -1) == 0


@REPEATABLE
@given(
    st.lists(st.floats(0.01, 100), max_size=80),
    st.floats(1, 1e6),
    st.lists(st.floats(1, 1e7), min_size=2, max_size=2),
)
def test_more_time_never_lowers_a_chance(
    seen: list[float], predicted_ms: float, allowed: list[float]
) -> None:
    ratios = ErrorRatios()
    for ratio in seen:
        ratios.add(ratio)
    less, more = (ratios.chance(predicted_ms, ms) for ms in sorted(allowed))
    assert 0 <= less <= more <= 1
