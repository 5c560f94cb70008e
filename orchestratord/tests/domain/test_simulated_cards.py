"""Who runs what on a 24 GB and a 12 GB card whose memory moves with the load: LO-ORC-031."""

from __future__ import annotations

import heapq
from collections import Counter

import pytest

from contracts.tasks import Priority
from orchestratord.tests.builders import GIB
from orchestratord.tests.domain.load import Job, Load
from orchestratord.tests.domain.scheduling import scheduler_of
from orchestratord.tests.domain.simulation import Card, Simulation

WEIGHTS = 6 * GIB
LOADS = [Load(jobs=1_500, gap_s=gap) for gap in (1.0, 1.6, 3.0)]
"""From more than the cards can bear to less than half of it."""


def cards(slots: tuple[int, int]) -> tuple[Card, Card]:
    """A 3090 and a 3060, each with the model in its memory."""
    return Card("a/0", slots[0], 24 * GIB - WEIGHTS), Card("a/1", slots[1], 12 * GIB - WEIGHTS)


def oracle(jobs: list[Job], pair: tuple[Card, ...]) -> Counter[str]:
    """Tasks per card, if each takes the card with most free memory at its very start."""
    waiting: list[tuple[bool, int]] = []
    ends: list[tuple[float, int, Card]] = []
    counts, number, now = Counter[str](), 0, 0.0
    while number < len(jobs) or ends:
        if ends and (number == len(jobs) or ends[0][0] <= jobs[number].at):
            now, ended, card = heapq.heappop(ends)
            card.running -= 1
            card.free_bytes += jobs[ended].memory
        else:
            now = jobs[number].at
            heapq.heappush(waiting, (jobs[number].priority is Priority.BATCH, number))
            number += 1
        while waiting and (free := [card for card in pair if card.running < card.slots]):
            card = max(free, key=lambda card: card.free_bytes)
            _, begun = heapq.heappop(waiting)
            card.running += 1
            card.free_bytes -= jobs[begun].memory
            counts[card.replica_id] += 1
            heapq.heappush(ends, (now + jobs[begun].run_s, begun, card))
    return counts


@pytest.mark.parametrize("slots", [(4, 2), (3, 3), (6, 2)], ids=str)
@pytest.mark.parametrize("load", LOADS, ids=lambda load: f"every {load.gap_s} s")
def test_each_card_gets_its_share(load: Load, slots: tuple[int, int]) -> None:
    """Within a tenth of an oracle, although the scheduler sees memory as of the last second.

    That no card is given more than it has slots for, the simulation asserts.
    """
    jobs = load.arrivals(seed=3)
    waits = Simulation.of(scheduler_of(capacity=100_000), *cards(slots)).play(jobs)
    found, expected = Counter(wait.replica_id for wait in waits), oracle(jobs, cards(slots))
    assert found.total() == expected.total() == load.jobs
    for replica_id, count in expected.items():
        assert abs(found[replica_id] - count) <= 0.1 * load.jobs


def test_with_memory_as_of_now_the_choice_is_the_oracles() -> None:
    """No batch task, so that none is starved and the orders are the same."""
    jobs = Load(jobs=1_500, gap_s=1.6, batch_share=0.0).arrivals(seed=4)
    simulation = Simulation.of(scheduler_of(capacity=100_000), *cards((4, 2)))
    simulation.sample_s = 0.0
    found = Counter(wait.replica_id for wait in simulation.play(jobs))
    assert found == oracle(jobs, cards((4, 2)))
