"""Figures for whoever follows a task: its place and start while it waits, its pace while it runs.

A frame has an id like every event, so that all readers see the same stream; it
is appended only while somebody follows.  Ids must go on rising after a crash,
so an id is used only once the disk says that none below it will be given again:
those of many tasks are reserved in one write.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel
import structlog

from contracts.config import Streams
from contracts.events import GpuGauge, MetricsEvent
from contracts.pools import DeviceView
from orchestratord.clock import Clock
from orchestratord.domain.scheduler import Scheduler
from orchestratord.errors import StorageBusy, StorageFull
from orchestratord.runtime.active_task import ActiveTask
from orchestratord.runtime.admissions import milliseconds
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.runtime.settling import budgets_of
from orchestratord.stores.tasks import TaskStore

log = structlog.get_logger()

TICK_S = 0.1
YIELD_EVERY_FRAMES = 32
"""A thousand frames in a row would hold everybody else up."""
IDS_RESERVED = 256
"""Reserved at a time: at one frame a second, a write every four minutes."""


class MetricsFeed:
    """One loop; one look costs as much as there are tasks with readers."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        scheduler: Scheduler,
        pools: PoolsView,
        shelf: LogShelf,
        store: TaskStore,
        clock: Clock,
        streams: Streams,
    ) -> None:
        self._dispatcher = dispatcher
        self._scheduler = scheduler
        self._pools = pools
        self._shelf = shelf
        self._store = store
        self._clock = clock
        self._interval_s = streams.metrics_interval_ms / 1000
        self._ticking = anyio.Lock()

    async def run(self) -> None:
        """Feed for ever."""
        while True:
            await anyio.sleep(min(TICK_S, self._interval_s))
            await self.tick(self._clock.now())

    async def close(self) -> None:
        """Append no more, and give back the ids nobody used: the next life leaves no gap.

        The lock is taken and kept.  A tick in its midst has reservations on
        their way; one that began after the last ids were read would append a
        frame above them, and the next life would give its id a second time.
        """
        await self._ticking.acquire()
        last = {
            task.task_id: task.log.last_id
            for task in self._dispatcher.waiting
            if task.log.reserved_id > task.log.last_id
        }
        if not last:
            return
        try:
            await self._store.settle_event_ids(last)
        except (StorageBusy, StorageFull) as error:
            log.info("event_ids_left_reserved", reason=error.code.value)

    async def tick(self, now: float) -> None:
        """Append a frame to every followed task that is due one; `now` in monotonic seconds."""
        async with self._ticking:
            due = [task for task in self._followed() if task.next_metrics_at <= now]
            short = {task.task_id: _wanted_id(task) for task in due if not _may_append(task)}
            await self._reserve(short)
            for number, task in enumerate(due, start=1):
                if number % YIELD_EVERY_FRAMES == 0:
                    await anyio.lowlevel.checkpoint()
                reserved = short.get(task.task_id, 0)
                task.log.reserved_id = max(task.log.reserved_id, reserved)
                # Meanwhile the task may have started or ended, and taken its ids.
                if task.next_metrics_at <= now and _is_settled(task) and _may_append(task):
                    task.log.append("metrics", self._frame(task, now))
                    task.next_metrics_at = now + self._interval_s

    async def _reserve(self, short: dict[str, int]) -> None:
        """Commit ids for these tasks; where the disk takes none, nothing is left of them."""
        if not short:
            return
        try:
            await self._store.reserve_event_ids(short)
        except (StorageBusy, StorageFull) as error:
            log.info("metrics_frames_skipped", reason=error.code.value)
            short.clear()

    def _followed(self) -> list[ActiveTask]:
        found = (self._dispatcher.find(task_id) for task_id in self._shelf.followed)
        return [task for task in found if task is not None and _is_settled(task)]

    def _frame(self, task: ActiveTask, now: float) -> MetricsEvent:
        scheduled, progress = task.scheduled, task.scheduled.progress
        candidates = self._pools.replicas(task.spec.pool_id)
        forecast = self._scheduler.forecast(task.task_id, now, candidates)
        running = task.attempt is not None and progress is not None
        return MetricsEvent(
            queue_depth=self._scheduler.waiting(task.spec.pool_id),
            queue_position=None if forecast is None else forecast.position,
            predicted_start_ms=None if forecast is None else milliseconds(forecast.start_ms),
            on_time_probability=self._scheduler.on_time(scheduled, now, candidates),
            kv_warmth=_warmth(task),
            kv_migrated=False,
            tokens_out=progress.tokens_out if running and progress else None,
            budgets=budgets_of(scheduled.session),
            gpu=self._gauges(task),
        )

    def _gauges(self, task: ActiveTask) -> tuple[GpuGauge, ...] | None:
        """The cards it runs on; None while it waits, and on no card."""
        cards = set(task.attempt.replica.devices) if task.attempt else set()
        shown = tuple(_gauge(device) for device in self._pools.devices if device.uuid in cards)
        return shown or None


def _is_settled(task: ActiveTask) -> bool:
    """Whether it waits, or has told its readers that it started: in between its ids are taken."""
    return task.attempt is None or task.attempt.announced


def _may_append(task: ActiveTask) -> bool:
    """Whether one more event leaves room below the reservation for what is sure to come."""
    return _needed_id(task) <= task.log.reserved_id


def _needed_id(task: ActiveTask) -> int:
    """The id of one more frame, and after it those of the tokens that may still follow."""
    attempt = task.attempt
    left = 0
    if attempt is not None and attempt.readable:
        left = max(0, task.scheduled.max_tokens - attempt.progress.tokens_out)
    return task.log.last_id + 1 + left


def _wanted_id(task: ActiveTask) -> int:
    return _needed_id(task) + IDS_RESERVED


def _warmth(task: ActiveTask) -> float:
    """As the engine told it of this prompt; before that, what its session's cache promises."""
    progress, session = task.scheduled.progress, task.scheduled.session
    if task.attempt is not None and progress is not None:
        if not progress.prompt_tokens or progress.cached_tokens is None:
            return 0.0
        return min(1.0, progress.cached_tokens / progress.prompt_tokens)
    return 0.0 if session is None else session.kv_warmth


def _gauge(device: DeviceView) -> GpuGauge:
    return GpuGauge(
        device=device.uuid,
        utilization=device.utilization,
        vram_used_bytes=device.used_bytes,
        vram_total_bytes=device.total_bytes,
    )
