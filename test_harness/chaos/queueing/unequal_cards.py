"""Q-11: work goes where the memory is, as far as there is a free slot."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Self

from test_harness.chaos.queueing.cards import SAMPLE_MS, SIZES, free_of, two_cards, write_cards
from test_harness.chaos.queueing.engines import Served, engines, pool_of
from test_harness.chaos.queueing.posts import Post, accepted, post_all
from test_harness.chaos.rig import POOL

CARDS = ("big", "small")
REPLICAS = {f"{POOL}/0": "big", f"{POOL}/1": "small"}
SLOTS = 2
MOVE_EVERY_S = 1.0
LATE_S = SAMPLE_MS / 1000 + 0.25
"""Until a figure of the file is the placement's: a sample, and what brings it there."""
DISPATCH_S = 0.5
"""From the choice of a card to the start on it, at most: a lease, and a commit."""
BLURRED_S = 0.05
"""Around a start or an end in which the slot may be seen as free or not."""
CERTAIN_SHARE = 0.3
SHARE_OFF = 0.1


@dataclass(frozen=True)
class Spell:
    """A task on a card; times in Unix seconds."""

    card: str
    posted: float
    began: float
    ended: float

    @property
    def decided(self) -> float:
        """The earliest that its card may have been chosen; the latest is when it began."""
        return max(self.posted, self.began - DISPATCH_S)


class Mover:
    """Gives the cards other figures again and again around a block, and notes when."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.moves: list[tuple[float, dict[str, int]]] = []
        self._root = root
        self._chance = chance
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._move()
        time.sleep(2 * LATE_S)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def seen(self, first: float, last: float) -> list[dict[str, int]]:
        """Free memory by card: every figure that placement may have had between two moments."""
        since = first - LATE_S
        before = [free for at, free in self.moves if at <= since]
        return before[-1:] + [free for at, free in self.moves if since < at <= last]

    def _run(self) -> None:
        while not self._over.wait(MOVE_EVERY_S):
            self._move()

    def _move(self) -> None:
        pairs = zip(CARDS, SIZES, strict=True)
        used = {card: round(self._chance.uniform(0, 1) * size) for card, size in pairs}
        self.moves.append((time.time(), free_of(used)))
        write_cards(self._root, used)


def unequal_cards(root: Path, seed: int, full: bool) -> dict[str, float]:
    """Two cards whose free memory changes while tasks of any length come and go."""
    count = 600 if full else 40
    chance = random.Random(seed)
    pool = pool_of(root, "--token-ms", "5", slots=SLOTS, replicas=[{"devices": [c]} for c in CARDS])
    gpus = two_cards(root, CARDS)
    with engines(root, pool, ready=2, gpus=gpus, queue={"capacity": count}) as it:
        with Mover(root, chance) as mover:
            ids = [_post(it, chance) for _ in range(count)]
            for task_id in ids:
                assert it.client.collect(task_id)[-1].name == "end"
        spells = [_spell(it, task_id) for task_id in ids]
    allowed = [_allowed(spell, spells, mover) for spell in spells]
    wrong = [s for s, cards in zip(spells, allowed, strict=True) if s.card not in cards]
    assert not wrong, wrong[:3]
    certain = sum(len(cards) == 1 for cards in allowed)
    assert certain >= CERTAIN_SHARE * count, "the oracle knew what to expect"
    taken = Counter(spell.card for spell in spells)
    assert len(taken) == len(CARDS)
    wanted = _share_of_oracle(spells, mover)
    off = abs(taken["big"] / count - wanted)
    assert off <= SHARE_OFF, (taken, wanted)
    return {
        "decisions": count,
        "of these certain": certain,
        "wrong": 0,
        "moves of the cards": len(mover.moves),
        "share of the big card": taken["big"] / count,
        "off the oracle": off,
    }


def _post(it: Served, chance: random.Random) -> str:
    """One task, and a pause in which others may end."""
    post = Post.of(chance, max_tokens=chance.randint(20, 100))
    (task_id,) = accepted(post_all(it.stack, [post]))
    time.sleep(chance.uniform(0.05, 0.25))
    return task_id


def _spell(it: Served, task_id: str) -> Spell:
    seen = it.client.task(task_id)
    assert seen["attempt"] == 1
    card = REPLICAS[seen["placement"]["replica_id"]]
    times = (seen[f"{name}_ms"] / 1000 for name in ("created", "started", "finished"))
    return Spell(card, *times)


def _allowed(spell: Spell, spells: Sequence[Spell], mover: Mover) -> set[str]:
    """The cards that a task may have been given, as far as times can tell."""
    others = [other for other in spells if other is not spell]
    slots = product(*(_may_be_free(card, spell, others) for card in CARDS))
    best = {
        _best(free, dict(zip(CARDS, have, strict=True)))
        for have in slots
        for free in mover.seen(spell.decided, spell.began)
    }
    return {card for card in best if card is not None}


def _may_be_free(card: str, spell: Spell, others: Sequence[Spell]) -> Iterator[bool]:
    """Whether the card had a free slot when the task began: one answer, or both."""
    there = [other for other in others if other.card == card]
    first, last = spell.decided - BLURRED_S, spell.began + BLURRED_S
    surely = [other for other in there if other.began < first and other.ended > spell.began]
    perhaps = [other for other in there if other.decided < last and other.ended > first]
    if len(surely) < SLOTS:
        yield True
    if len(perhaps) >= SLOTS:
        yield False


def _best(free: dict[str, int], has_slot: dict[str, bool]) -> str | None:
    return max((card for card in CARDS if has_slot[card]), key=free.__getitem__, default=None)


def _share_of_oracle(spells: Sequence[Spell], mover: Mover) -> float:
    """Of the big card, if each task had gone to the roomiest card with a free slot."""
    big = 0
    for spell in spells:
        busy = Counter(
            other.card
            for other in spells
            if other is not spell and other.began <= spell.began < other.ended
        )
        free = mover.seen(spell.decided, spell.decided)[0]
        big += _best(free, {card: busy[card] < SLOTS for card in CARDS}) == "big"
    return big / len(spells)
