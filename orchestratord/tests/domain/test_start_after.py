"""When the slots have absorbed a line, against list scheduling task by task: LO-ORC-128."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

import pytest

from orchestratord.domain.prediction import TASKS_SIMULATED, start_after

LENGTHS = (0, 1, 2, 7, 60, 127, 128, 129, 130, 200, 500, 1_500, 4_000)


def brute_force(lengths: Sequence[float], free_in_ms: Sequence[float]) -> float:
    """Each task in turn on the slot that is free first; when the next one would start."""
    slots = list(free_in_ms)
    heapq.heapify(slots)
    for length in lengths:
        heapq.heapreplace(slots, slots[0] + length)
    return slots[0]


def slots_of(chance: random.Random, count: int, each: float) -> list[float]:
    """Slots that are free at once, soon, or only in a long while."""
    widest = chance.choice((0.0, 1.0, 5.0, 50.0)) * each
    return [chance.uniform(0, widest) for _ in range(count)]


@pytest.mark.parametrize("seed", range(40))
def test_a_short_line_is_exact(seed: int) -> None:
    chance = random.Random(seed)
    for tasks in range(0, TASKS_SIMULATED + 1, 8):
        each = chance.uniform(1, 5_000)
        slots = slots_of(chance, chance.randint(1, 12), each)
        found = start_after(tasks * each, tasks, slots)
        assert found == pytest.approx(brute_force([each] * tasks, slots))


@pytest.mark.parametrize("seed", range(20))
def test_a_long_line_of_equal_tasks_is_off_by_less_than_half_of_one(seed: int) -> None:
    chance = random.Random(seed)
    for tasks in LENGTHS:
        each = chance.uniform(1, 5_000)
        slots = slots_of(chance, chance.choice((1, 2, 3, 4, 8, 16, 64, 128)), each)
        found, exact = start_after(tasks * each, tasks, slots), brute_force([each] * tasks, slots)
        assert abs(found - exact) <= each / 2
        assert found >= min(slots)


@pytest.mark.parametrize("seed", range(20))
def test_a_line_of_unequal_tasks_is_off_by_less_than_the_longest(seed: int) -> None:
    """Nobody knows in which order the long ones come to the slots: only their sum is kept."""
    chance = random.Random(seed)
    for tasks in LENGTHS:
        lengths = [chance.choice((100.0, 1_000.0, chance.expovariate(1 / 3_000)))] * (tasks % 2)
        lengths += [chance.expovariate(1 / 3_000) + 50 for _ in range(tasks - len(lengths))]
        slots = slots_of(chance, chance.randint(1, 16), 3_000)
        found, exact = start_after(sum(lengths), tasks, slots), brute_force(lengths, slots)
        assert abs(found - exact) <= max(lengths, default=0)


def test_over_many_long_lines_the_middle_error_is_a_few_percent() -> None:
    chance, errors = random.Random(11), list[float]()
    for _ in range(300):
        tasks = chance.randint(10, 3_000)
        lengths = [chance.choice((300, 2_500, 14_000)) * chance.uniform(0.5, 1.5)] * tasks
        lengths = [length * chance.choice((0.2, 1.0, 1.8)) for length in lengths]
        slots = slots_of(chance, chance.randint(1, 8), 3_000)
        exact = brute_force(lengths, slots)
        errors.append(abs(start_after(sum(lengths), tasks, slots) - exact) / exact)
    assert sorted(errors)[len(errors) // 2] < 0.03


@pytest.mark.parametrize("count", [1, 127, 128, 129, 256, 300, 512, 2_048])
def test_nothing_starts_before_the_first_of_any_number_of_slots_is_free(count: int) -> None:
    for tasks in LENGTHS:
        found = start_after(tasks * 1_000.0, tasks, [500.0] * count)
        assert found >= 500
        assert abs(found - brute_force([1_000.0] * tasks, [500.0] * count)) <= 500


@pytest.mark.parametrize("tasks", [1, 200])
def test_work_of_no_length_delays_nobody(tasks: int) -> None:
    assert start_after(0.0, tasks, [3.0, 9.0]) == 3.0
