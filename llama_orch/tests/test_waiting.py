"""What is said of a wait, and when it is said again."""

from __future__ import annotations

import pytest

from llama_orch.waiting import ON_TIME_LOW, QUIET_S, Waiting


def wait(
    position: int | None = 3,
    starts: float | None = None,
    on_time: float | None = 1.0,
    at: float = 0.0,
) -> Waiting:
    return Waiting(position, starts, on_time, at)


@pytest.mark.parametrize(
    ("waiting", "words"),
    [
        (wait(None), "queued, waiting for a slot"),
        (wait(0), "queued, next in line"),
        (wait(1), "queued, 1 task ahead"),
        (wait(3, 4200), "queued, 3 tasks ahead, starts in about 4.2 s"),
        (wait(0, 0), "queued, next in line, starts in less than a second"),
        (
            wait(0, 1000, 0.35),
            "queued, next in line, starts in about 1.0 s, 35% likely to meet its deadline",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wait_is_one_line(waiting: Waiting, words: str) -> None:
    """LO-CMD-030, LO-CMD-034."""
    assert waiting.words() == words


@pytest.mark.parametrize(
    ("on_time", "said"),
    [(None, False), (1.0, False), (ON_TIME_LOW, False), (0.79, True), (0.0, True)],
)
def test_only_a_low_chance_to_meet_the_deadline_is_said(on_time: float | None, said: bool) -> None:
    """LO-CMD-036."""
    assert ("deadline" in wait(0, 1000, on_time).words()) is said


@pytest.mark.parametrize(
    ("said", "now"),
    [
        (wait(3), wait(2, at=1)),
        (wait(100), wait(75, at=1)),
        (wait(1), wait(0, at=1)),
        (wait(None), wait(9, at=1)),
        (wait(3), wait(3, 4000, at=1)),
        (wait(3), wait(4, at=QUIET_S)),
        (wait(3, 10_000), wait(3, 10_000, at=QUIET_S)),
        (wait(3, 20_000), wait(3, 9_000, at=QUIET_S)),
        (wait(3, on_time=1.0), wait(3, on_time=0.5, at=QUIET_S)),
    ],
    ids=repr,
)
def test_another_wait_is_news(said: Waiting, now: Waiting) -> None:
    """LO-CMD-035."""
    assert now.is_news_after(said)


@pytest.mark.parametrize(
    ("said", "now"),
    [
        (wait(3), wait(3, at=99)),
        (wait(100), wait(76, at=99)),
        (wait(3), wait(None, at=99)),
        (wait(3, 4000), wait(3, None, at=99)),
        (wait(3), wait(4, at=QUIET_S - 1)),
        (wait(3, 10_000), wait(3, 99_000, at=QUIET_S - 1)),
        (wait(3, 10_000), wait(3, 10_000 - 5000, at=5)),
        (wait(3, 10_000), wait(3, 10_000 - 5000 + 2500, at=5)),
        (wait(3, 1000), wait(3, 0, at=3)),
        (wait(3, on_time=1.0), wait(3, on_time=0.5, at=QUIET_S - 1)),
    ],
    ids=repr,
)
def test_the_same_wait_is_no_news(said: Waiting, now: Waiting) -> None:
    """LO-CMD-035."""
    assert not now.is_news_after(said)


def test_figures_that_go_to_and_fro_are_told_seldom() -> None:
    """LO-CMD-035."""
    said, told = wait(3, 10_000), 0
    for second in range(1, 61):
        further = second % 2
        now = wait(3 + further, 10_000 + 30_000 * further, 1.0 - further, at=second)
        if now.is_news_after(said):
            said, told = now, told + 1
    assert 0 < told <= 2 * 60 / QUIET_S
