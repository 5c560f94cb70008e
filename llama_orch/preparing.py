"""How far replicas that do not serve yet have come: words, and a bar where bytes are counted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contracts.capabilities import PoolPage
from contracts.pools import Phase, Preparation, ReplicaState, ReplicaView
from llama_orch.output import duration, printable

WORDS = {
    ReplicaState.STOPPED: "not started",
    ReplicaState.PROVISIONING: "checking the model file",
    ReplicaState.STARTING: "loading the model",
    ReplicaState.READY: "ready",
    ReplicaState.DRAINING: "finishing its work",
    ReplicaState.STOPPING: "stopping",
    ReplicaState.BACKOFF: "stopped, will be started again",
    ReplicaState.FAILED: "failed, not started again for now",
    ReplicaState.UNHEALTHY: "not answering",
}
PHASES = {
    Phase.RESOLVING: "looking for",
    Phase.DOWNLOADING: "downloading",
    Phase.INSTALLING: "installing",
    Phase.BUILDING: "building",
    Phase.LOADING: "loading",
}
BAR_WIDTH = 24
# Speed is that of the last so many seconds, so that it follows what a network does.
WINDOW_S = 10.0
STEP_PERCENT = 25


class Speeds:
    """Bytes per second of each replica's preparation, from the pages that were seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def observe(self, page: PoolPage) -> None:
        """Another page; a replica that begins something else begins anew."""
        now, before = self._clock(), self._seen
        self._seen = {}
        for replica, preparation in preparing(page):
            if preparation.done is None:
                continue
            key = f"{replica.replica_id} {preparation.what} {preparation.since_ms}"
            seen = self._seen[key] = before.get(key, deque())
            seen.append((now, preparation.done))
            while now - seen[0][0] > WINDOW_S:
                seen.popleft()

    def of(self, replica: ReplicaView) -> float | None:
        """Bytes per second; None before two figures of it were seen."""
        if replica.preparation is None:
            return None
        key = f"{replica.replica_id} {replica.preparation.what} {replica.preparation.since_ms}"
        seen = self._seen.get(key, deque())
        if not seen or seen[-1][0] <= seen[0][0]:
            return None
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])


def preparing(page: PoolPage) -> Iterator[tuple[ReplicaView, Preparation]]:
    """The replicas that are on their way, and how far they have come."""
    for pool in page.items:
        for replica in pool.replicas:
            if replica.preparation is not None:
                yield replica, replica.preparation


def downloads(page: PoolPage) -> bool:
    """Whether a replica waits for bytes."""
    return any(told.phase is Phase.DOWNLOADING for _, told in preparing(page))


def state_words(replica: ReplicaView) -> str:
    """What a replica does, as words that change with each quarter of the way and no oftener."""
    told = replica.preparation
    if told is None:
        return WORDS[replica.state]
    words = f"{PHASES[told.phase]} {printable(told.what)}"
    if told.done is None or not told.total:
        return words
    percent = 100 * told.done // told.total // STEP_PERCENT * STEP_PERCENT
    return f"{words}, {percent}% of {size(told.total)}" if percent else words


def bars(page: PoolPage, speeds: Speeds) -> RenderableType | None:
    """A bar for each replica whose way is counted; None where there is none."""
    table = Table.grid(padding=(0, 1))
    for replica, told in preparing(page):
        if told.done is None:
            continue
        table.add_row(
            replica.replica_id,
            ProgressBar(total=told.total, completed=told.done, width=BAR_WIDTH),
            Text(figures(told, speeds.of(replica)), no_wrap=True),
        )
    return table if table.row_count else None


def figures(told: Preparation, speed: float | None) -> str:
    """Bytes, speed and the time that is left, as far as they are known."""
    done = told.done or 0
    if told.total is None:
        words = size(done)
    else:
        share = done / told.total if told.total else 1.0
        words = f"{share:4.0%}  {size(done)} of {size(told.total)}"
    if speed is None or speed <= 0:
        return words
    words += f"  {size(speed)}/s"
    if told.total is not None:
        words += f"  {duration(1000 * (told.total - done) / speed)} left"
    return words


def size(count: float) -> str:
    """So many bytes, in the unit that leaves the fewest digits."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.1f} {unit}"
    return f"{count:.0f} B"
