"""When a task will start and end: rates that are learned, and a simulation of the slots.

What a task takes is told in tokens, because tokens are what a client states and
what an engine counts; what a token takes, in the prefill and in the decode of a
slot, and what every task costs beside are running averages over finished tasks.
So a queue is re-estimated whenever they move, without touching what waits in it.
They are averages of ms per token and not of tokens per ms, because it is times
that are added up.  What runs now tells more about the next minute than what has
ended: the pace of the running tasks is taken instead of the average, the more
the more tokens they have shown.

Output is guessed as the share of `max_tokens` that earlier tasks used, unless
the client said what it expects.

The start of a task is the moment at which the slots have absorbed the work
ahead of it: the first slots to be free take the next tasks in turn.  For a short
line that is simulated task by task; for a long one the bulk is poured over the
slots evenly (what list scheduling does in the limit, R. L. Graham, "Bounds for
certain multiprocessing anomalies", 1966) and only the last rounds are simulated,
so that a prediction costs the same at any length of the line.

How far past predictions were off is kept too, as the ratio of what it took to
what was predicted; the chance to be on time is the share of those ratios that
would have been early enough.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

WEIGHT = 0.15
"""Of a new observation in a running average."""
SHARE_WEIGHT = 0.05
"""Of the share of `max_tokens` that was used: lengths differ more than speeds do."""
FULL_WEIGHT_TOKENS = 32
"""A pace seen over fewer tokens weighs less."""
LIVE_TOKENS = 64
"""So many tokens of running tasks tell the pace by themselves."""
RATIOS_KEPT = 256
PRIOR_RATIOS = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)
"""How wrong a prediction may be that nothing has been learned about."""
PRIOR_FADES = 32
"""Observations after which the prior counts no more."""
TASKS_SIMULATED = 128
"""Of the tasks ahead, the last so many are simulated one by one."""
OVERRUN_SHARE = 0.1
"""Of what a task has generated, what it is expected to go on for past its expectation."""


@dataclass(slots=True)
class Average:
    """A running average that forgets; None until something was seen."""

    value: float | None = None
    seen: float = 0.0
    """Certainty of all observations together."""
    weight: float = WEIGHT

    def add(self, observed: float, certainty: float = 1.0) -> None:
        """Take one observation; what is uncertain gives way to what is certain.

        The first ones are averaged as they come, later ones weigh `weight`.
        """
        self.seen += certainty
        share = max(self.weight * certainty, certainty / self.seen)
        self.value = (
            observed if self.value is None else self.value + share * (observed - self.value)
        )


@dataclass(slots=True)
class Work:
    """Tokens of one task, or of many: sums may be added and subtracted.

    `guided` output is expected by somebody; `unguided` is a sum of `max_tokens`
    of which the share is yet to be guessed.
    """

    tasks: int = 0
    prompt: int = 0
    guided: int = 0
    unguided: int = 0

    @classmethod
    def of(cls, prompt_tokens: int, max_tokens: int, expected: int | None) -> Work:
        """The work of one task."""
        if expected is None:
            return cls(1, prompt_tokens, 0, max_tokens)
        return cls(1, prompt_tokens, min(expected, max_tokens), 0)

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tasks + other.tasks,
            self.prompt + other.prompt,
            self.guided + other.guided,
            self.unguided + other.unguided,
        )


@dataclass(slots=True)
class AttemptProgress:
    """How far an attempt has come; times in monotonic seconds.

    The attempt alone writes here, at each token; everybody else reads.
    """

    began_at: float
    started_at: float | None = None
    advanced_at: float | None = None
    """When the prefill last showed that it goes on."""
    first_token_at: float | None = None
    last_token_at: float | None = None
    tokens_out: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    answered_at: float | None = None
    """When an answer came that is no text, all at once."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What running tasks show of the decode: tokens, and the slot time they took, ms."""

    tokens: int = 0
    ms: float = 0.0

    @classmethod
    def of(cls, running: Iterable[AttemptProgress]) -> Pace:
        """All of them together."""
        tokens, seconds = 0, 0.0
        for progress in running:
            if progress.first_token_at is not None and progress.last_token_at is not None:
                tokens += progress.tokens_out - 1
                seconds += progress.last_token_at - progress.first_token_at
        return cls(tokens, seconds * 1000)


NO_PACE = Pace()


@dataclass(frozen=True, slots=True)
class Forecast:
    """Milliseconds from now to the start, and what the task takes then; None: not known."""

    position: int
    start_ms: float | None
    run_ms: float | None

    @property
    def end_ms(self) -> float | None:
        """Milliseconds from now to its last token."""
        if self.start_ms is None or self.run_ms is None:
            return None
        return self.start_ms + self.run_ms


class ErrorRatios:
    """The newest ratios of what tasks took to what was predicted."""

    def __init__(self) -> None:
        self._newest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, ratio: float) -> None:
        """Remember one, forget the oldest."""
        if len(self._newest) == RATIOS_KEPT:
            del self._sorted[bisect_right(self._sorted, self._newest.popleft()) - 1]
        self._newest.append(ratio)
        insort(self._sorted, ratio)

    def chance(self, predicted_ms: float, allowed_ms: float) -> float:
        """The chance that what is predicted to take `predicted_ms` takes at most `allowed_ms`."""
        if allowed_ms <= 0:
            return 0.0
        if predicted_ms <= 0:
            return 1.0
        bound = allowed_ms / predicted_ms
        seen, early = len(self._sorted), bisect_right(self._sorted, bound)
        prior = max(0.0, 1 - seen / PRIOR_FADES)
        weight = prior * len(PRIOR_RATIOS)
        return (early + prior * bisect_right(PRIOR_RATIOS, bound)) / (seen + weight)


@dataclass(slots=True)
class PoolRates:
    """What one pool has shown: ms per token, and ms per task."""

    prefill_ms: Average = field(default_factory=Average)
    decode_ms: Average = field(default_factory=Average)
    overhead_ms: Average = field(default_factory=Average)
    """What a task holds its slot for beside its tokens."""
    output_share: Average = field(default_factory=partial(Average, weight=SHARE_WEIGHT))
    ratios: ErrorRatios = field(default_factory=ErrorRatios)
    first_token_ms: Average = field(default_factory=Average)
    """Of a task whose prompt is next to nothing, or in the cache: what no prompt explains."""
    answers: bool = False
    """Whether an answer without a decode was seen."""

    @property
    def known(self) -> bool:
        """Whether anything can be predicted."""
        return self.answers or self.decode_ms.value is not None

    def learn(self, progress: AttemptProgress, tokens_out: int, max_tokens: int) -> None:
        """Take the figures of an attempt that ended by itself."""
        first, last = progress.first_token_at, progress.last_token_at
        if progress.started_at is None:
            return
        if progress.answered_at is not None:
            self._learn_prefill(progress, progress.answered_at - progress.started_at)
            self.answers = True
        if first is None or last is None:
            return
        self._learn_prefill(progress, first - progress.started_at)
        if tokens_out > 1 and last > first:
            took = (last - first) * 1000
            self.decode_ms.add(took / (tokens_out - 1), _certainty(tokens_out - 1))
        self.output_share.add(min(1.0, tokens_out / max_tokens))

    def _learn_prefill(self, progress: AttemptProgress, seconds: float) -> None:
        evaluated = (progress.prompt_tokens or 0) - (progress.cached_tokens or 0)
        took = seconds * 1000
        if evaluated < FULL_WEIGHT_TOKENS:
            self.first_token_ms.add(took)
        else:
            took = max(0.0, took - (self.first_token_ms.value or 0.0))
            self.prefill_ms.add(took / evaluated)

    def run_ms(self, work: Work, pace: Pace = NO_PACE) -> float | None:
        """Slot time for `work`, ms; None until a rate is known."""
        decode_ms = self._decode_ms(work, pace)
        if decode_ms is None:
            return None
        prefill = work.prompt * (self.prefill_ms.value or 0.0)
        each = (self.overhead_ms.value or 0.0) + (self.first_token_ms.value or 0.0)
        overhead = work.tasks * each
        return prefill + self._expected_output(work) * decode_ms + overhead

    def remaining_ms(
        self,
        work: Work,
        max_tokens: int,
        progress: AttemptProgress,
        now: float,
        pace: Pace = NO_PACE,
    ) -> float | None:
        """Slot time a running task still takes, ms; None until a rate is known."""
        decode_ms = self._decode_ms(work, pace)
        if decode_ms is None:
            return None
        expected = self._expected_output(work)
        if progress.first_token_at is None:
            begun = progress.started_at or progress.began_at
            whole = self.run_ms(work, pace) or 0.0
            return max(expected * decode_ms, whole - (now - begun) * 1000)
        overrun = OVERRUN_SHARE * progress.tokens_out
        left = max(expected - progress.tokens_out, overrun)
        return max(0.0, min(left, max_tokens - progress.tokens_out)) * decode_ms

    def _decode_ms(self, work: Work, pace: Pace) -> float | None:
        """What a token takes now: the average, moved towards the pace of what runs.

        Work that generates nothing is known by what answers took.
        """
        average = self.decode_ms.value
        if average is None and self.answers and not work.guided and not work.unguided:
            return 0.0
        if average is None or pace.tokens <= 0:
            return average
        certainty = min(1.0, pace.tokens / LIVE_TOKENS)
        return average + certainty * (pace.ms / pace.tokens - average)

    def _expected_output(self, work: Work) -> float:
        share = 1.0 if self.output_share.value is None else self.output_share.value
        return work.guided + work.unguided * share


def _certainty(tokens: int) -> float:
    return min(1.0, tokens / FULL_WEIGHT_TOKENS)


def start_after(work_ms: float, tasks: int, free_in_ms: Sequence[float]) -> float:
    """When a slot is free for the next task, ms from now.

    Args:
        work_ms: slot time of all tasks ahead together.
        tasks: how many those are.
        free_in_ms: when each slot has finished what it runs now; at least one.
    """
    slots = sorted(free_in_ms)
    if tasks == 0:
        return slots[0]
    each = work_ms / tasks
    simulated = min(tasks, max(TASKS_SIMULATED, len(slots)))
    if simulated < tasks:
        slots = _filled(slots, each * (tasks - simulated), each)
    heapq.heapify(slots)
    for _ in range(simulated):
        heapq.heapreplace(slots, slots[0] + each)
    return slots[0]


def _filled(slots: list[float], work_ms: float, each: float) -> list[float]:
    """The slots once `work_ms` was poured over them, lowest first, out of step with each other.

    Slots that have run many tasks finish at different times; spread evenly over
    one task's length they have the same sum and the first is free when the first
    of many unequal ones would be.
    """
    total = work_ms
    for count, slot in enumerate(slots, start=1):
        total += slot
        level = total / count
        if count == len(slots) or level <= slots[count]:
            middle = (count - 1) / 2
            spread = [level + each * (index - middle) / count for index in range(count)]
            return [*spread, *slots[count:]]
    raise AssertionError("the last count fills every slot")
