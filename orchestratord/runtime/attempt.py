"""One attempt of one task: lease, stream, and what came of it.

An attempt owns its cancel scope.  Whoever wants it to stop calls `abort` with
the ending it shall have; the first such call wins, the scope is canceled, the
connection to the engine closes with the scope, and that is what makes the
engine stop.  From that moment no token is appended, because the loop that
appends them is the thing that was canceled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

import anyio
import anyio.lowlevel
import structlog

from contracts.errors import ErrorCode
from contracts.events import StartedEvent
from contracts.pools import ReplicaView
from orchestratord.clients.pools import LeaseRefused, PoolManagerAway
from orchestratord.domain.abilities import GENERATED
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.prediction import AttemptProgress
from orchestratord.errors import StorageBusy, StorageFull
from orchestratord.runtime.attempt_tools import AttemptTools
from orchestratord.runtime.ending import Ending, Failed, Rerun, Succeeded
from orchestratord.runtime.event_log import EventLog
from orchestratord.runtime.generation import billable, generation_request
from orchestratord.runtime.held_lease import HeldLease
from orchestratord.runtime.results import ask
from orchestratord.runtime.unserved import unserved
from orchestratord.stores.tasks import NewTask, StartedAttempt
from worker_adapters.base import EngineClient, Finished, Progress
from worker_adapters.errors import EngineBusy, EngineError, EngineLost, EngineUnreachable

log = structlog.get_logger()

YIELD_EVERY_TOKENS = 64
"""An engine that floods must not keep the loop to itself."""
EVENT_ID_SLACK = 1_024
"""Event ids beyond the tokens that an attempt may use, reserved for a restart."""


def _nobody_cares(_: int) -> None:
    """What becomes of a slot nobody wants to know of."""


class Attempt:
    """Epoch `number` of a task on one replica; how far it has come is in `progress`."""

    def __init__(
        self,
        tools: AttemptTools,
        task: NewTask,
        log: EventLog,
        spec: PoolSpec,
        replica: ReplicaView,
        number: int,
        progress: AttemptProgress,
        preferred_slot: int | None = None,
        took_slot: Callable[[int], None] = _nobody_cares,
    ) -> None:
        self.replica = replica
        self.number = number
        self.progress = progress
        self.readable = False
        self.over = anyio.Event()
        self.started = False
        """Whether the row says so."""
        self.announced = False
        """Whether readers have been told."""
        self.slot: int | None = None
        """The slot it was given; it stays when the lease is gone."""
        self._tools = tools
        self._task = task
        self._log = log
        self._spec = spec
        self._preferred_slot = preferred_slot
        self._took_slot = took_slot
        self._text: list[str] = []
        self._scope = anyio.CancelScope()
        self._aborted: Ending | None = None
        self._lease = HeldLease(
            tools.pools,
            tools.clock,
            replica.replica_id,
            task.task_id,
            number,
            task.correlation_id,
            tools.renew_every_s,
        )

    @property
    def _generates(self) -> bool:
        return self._task.request.workload in GENERATED

    @property
    def text(self) -> str:
        """Everything generated so far."""
        return "".join(self._text)

    def abort(self, ending: Ending) -> None:
        """Stop now, with this ending; later calls change nothing."""
        if self._aborted is None:
            self._aborted = ending
            self._scope.cancel()

    async def run(self) -> Ending:
        """Run to the end; raises nothing but what is a bug here."""
        ending: Ending | None = None
        with self._scope:
            try:
                ending = await self._run()
            except (LeaseRefused, PoolManagerAway, StorageBusy, StorageFull) as error:
                ending = Rerun(str(error))
            except EngineError as error:
                ending = self._after(error)
        ending = ending or self._aborted
        assert ending is not None
        return ending

    async def release(self, *, stalled: bool = False) -> None:
        """Give the slot back; `stalled`: its engine sent nothing for too long."""
        self._tools.failpoints.hit("lease.release")
        await self._lease.release(stalled=stalled)

    def renewal_due(self, now: float) -> bool:
        """Whether the lease wants another TTL."""
        return self._lease.renewal_due(now)

    @property
    def lease_in_doubt(self) -> bool:
        """Whether a restarted manager may not know yet which slot this attempt uses."""
        return self._lease.in_doubt

    def doubt_lease(self) -> None:
        """pool_managerd was started again."""
        self._lease.doubt()

    async def renew(self, *, tells_idle: bool = True) -> None:
        """Keep the slot for another TTL; a lease that is lost ends the attempt.

        A manager that was started again finds its replicas one by one, so that one
        which serves our stream may not be ready for it yet.  That refusal is asked
        again, for as long as the launch is the same and the manager had no more
        than a TTL and a grace to find it.  Any other says that the slot is
        somebody else's.

        With `tells_idle` false nothing is said of progress: after a standstill of
        this process the tokens of that time have not been read yet.
        """
        now = self._tools.clock.now()
        idle_ms = max(0, round((now - self._sign_of_life) * 1000)) if tells_idle else None
        try:
            await self._lease.renew(idle_ms)
        except PoolManagerAway:
            log.info("lease_renewal_deferred", task_id=self._task.task_id)
        except LeaseRefused as error:
            if error.not_ready and self._may_be_found_again():
                log.info("lease_renewal_deferred", task_id=self._task.task_id, reason=str(error))
            else:
                self.abort(self._reset(f"the lease was lost: {error}"))

    def _may_be_found_again(self) -> bool:
        """Whether our launch may still serve, though the manager does not say so yet."""
        seen = self._tools.view.replica(self.replica.replica_id)
        other_launch = seen is not None and seen.pid not in (None, self.replica.pid)
        return not other_launch and not self._lease.given_up(self._tools.clock.now())

    @property
    def _sign_of_life(self) -> float:
        """When the attempt last showed progress, monotonic seconds."""
        progress = self.progress
        signs = (progress.last_token_at, progress.advanced_at, progress.started_at)
        return max((sign for sign in signs if sign is not None), default=progress.began_at)

    def overdue(self, now: float) -> Failed | None:
        """Which clock has run out: prefill and decode have one each.

        A prefill that shows progress is slow and not dead: its clock begins
        anew with each sign of life.
        """
        timeouts, progress = self._tools.timeouts, self.progress
        if progress.last_token_at is None:
            sign = progress.advanced_at or progress.started_at or progress.began_at
            if now - sign > timeouts.first_token_ms / 1000:
                awaited = "first token" if self._generates else "answer"
                return Failed(
                    ErrorCode.DECODE_TIMEOUT,
                    f"no {awaited} within {timeouts.first_token_ms} ms",
                )
        elif now - progress.last_token_at > timeouts.idle_token_ms / 1000:
            return Failed(ErrorCode.DECODE_TIMEOUT, f"no token for {timeouts.idle_token_ms} ms")
        return None

    async def _run(self) -> Ending:
        tools = self._tools
        tools.failpoints.hit("task.start")
        ending = self._unserved()
        if ending is not None:
            return ending
        lease = await self._lease.acquire(self._preferred_slot)
        self.slot = lease.slot
        self._took_slot(lease.slot)
        tools.failpoints.hit("lease.acquired")
        await anyio.lowlevel.checkpoint_if_cancelled()
        await self._start()
        client = tools.engines[self._spec.engine].client(
            tools.transport, lease.base_url, lease.api_key
        )
        client.ask_for(self._spec.model_id)
        ending = self._unserved()
        if ending is not None:
            return ending
        if self._generates:
            return await self._generate(client, lease.slot)
        return await self._answer(client)

    def _unserved(self) -> Ending | None:
        """What the replica cannot do, or not as promised: it may have changed since admission."""
        return unserved(self._task, self._spec, self._seen, self._tools.view)

    @property
    def _seen(self) -> ReplicaView:
        """The replica as last seen; what it told may have come after it was chosen."""
        return self._tools.view.replica(self.replica.replica_id) or self.replica

    async def _answer(self, client: EngineClient) -> Ending:
        """What comes all at once: nothing of it is readable before its end."""
        result, tokens_in = await ask(client, self._task, self._log.max_bytes)
        progress = self.progress
        progress.answered_at = self._tools.clock.now()
        self._take_prompt_tokens(tokens_in)
        return Succeeded("stop", 0, result)

    async def _generate(self, client: EngineClient, slot: int) -> Ending:
        task, progress = self._task, self.progress
        capabilities = self._seen.capabilities
        features = None if capabilities is None else frozenset(capabilities.features)
        request = generation_request(task, slot=slot, features=features)
        async with aclosing(client.stream(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return self._succeeded(event, request.max_tokens)
                if isinstance(event, Progress):
                    self._advance(event)
                    continue
                if progress.tokens_out >= request.max_tokens:
                    log.warning("engine_passed_max_tokens", task_id=task.task_id)
                    return Succeeded("length", progress.tokens_out)
                if self._log.full_of(event.text):
                    return Failed(
                        ErrorCode.UPSTREAM_PROTOCOL,
                        "the engine sent more text than streams.log_bytes allows",
                    )
                if not self.readable:
                    await self._make_readable()
                self._append(event.text)
                if progress.tokens_out % YIELD_EVERY_TOKENS == 0:
                    await anyio.lowlevel.checkpoint()
        raise AssertionError("an engine stream ends with Finished or raises")

    async def _start(self) -> None:
        """Commit the attempt, then let readers know of it."""
        tools, task = self._tools, self._task
        self.progress.started_at = tools.clock.now()
        event_id = self._log.last_id + 1
        await tools.store.start(
            StartedAttempt(
                task_id=task.task_id,
                attempt=self.number,
                replica_id=self.replica.replica_id,
                engine=self._spec.engine,
                engine_version=self.replica.engine_version,
                model_digest=self.replica.model_digest,
                started_ms=tools.clock.unix_ms(),
                last_event_id=event_id,
            )
        )
        self._log.reserved_id = event_id
        self.started = True
        tools.failpoints.hit("task.started")
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._log.append(
            "started",
            StartedEvent(
                queue_position=0,
                predicted_start_ms=task.predicted_start_ms,
                attempt=self.number,
                pool_id=self._spec.pool_id,
                replica_id=self.replica.replica_id,
                engine=self._spec.engine,
                engine_version=self.replica.engine_version,
                model_digest=self.replica.model_digest,
                seed=task.seed,
            ),
        )
        self.announced = True

    def _advance(self, event: Progress) -> None:
        """The prefill goes on: a sign of life, and the engine's own word on its cache."""
        progress = self.progress
        progress.advanced_at = self._tools.clock.now()
        progress.prompt_tokens = min(event.prompt_tokens, self._spec.ctx)
        if event.cached_tokens is not None:
            progress.cached_tokens = min(event.cached_tokens, progress.prompt_tokens)

    def _succeeded(self, event: Finished, max_tokens: int) -> Succeeded:
        """The engine's figures, as far as they can be: it may not bill what nobody asked for."""
        progress = self.progress
        prompt_tokens = self._take_prompt_tokens(event.tokens_in)
        tokens_out = min(event.tokens_out, max_tokens)
        if tokens_out != event.tokens_out:
            log.warning("engine_figures_cut", task_id=self._task.task_id)
        if event.cached_tokens is not None:
            progress.cached_tokens = min(event.cached_tokens, prompt_tokens)
        if event.slot is not None and event.slot != self.slot:
            self._correct_slot(event.slot)
        return Succeeded(event.finish_reason, tokens_out)

    def _take_prompt_tokens(self, told: int) -> int:
        tokens = billable(self._task, told, self._spec.ctx)
        if tokens != told:
            log.warning("engine_figures_cut", task_id=self._task.task_id)
        self.progress.prompt_tokens = tokens
        return tokens

    def _correct_slot(self, slot: int) -> None:
        """The engine served another slot than it was asked for: the cache is there."""
        replica_id, odd = self.replica.replica_id, self._tools.odd_slots
        if replica_id not in odd:
            odd.add(replica_id)
            log.warning("engine_chose_slot", replica_id=replica_id, leased=self.slot, served=slot)
        self.slot = slot
        self._took_slot(slot)

    def _append(self, text: str) -> None:
        self.progress.last_token_at = self._tools.clock.now()
        self._log.append_token(text)
        self._text.append(text)
        self.progress.tokens_out += 1

    async def _make_readable(self) -> None:
        """The point of no return: after this commit the task never runs again.

        An abort that came with the token is honoured first, because it may have
        decided that the task runs again.  The commit cannot be canceled, so one
        that came meanwhile is honoured right after it, before the token can be
        seen.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        self.progress.first_token_at = self._tools.clock.now()
        reserved = self._log.last_id + (self._task.request.max_tokens or 0) + EVENT_ID_SLACK
        self.readable = True
        try:
            await self._tools.store.mark_readable(self._task.task_id, self.number, reserved)
        except (StorageBusy, StorageFull):
            self.readable = False
            raise
        self._log.reserved_id = reserved
        self._tools.failpoints.hit("task.readable")
        await anyio.lowlevel.checkpoint_if_cancelled()

    def _after(self, error: EngineError) -> Ending:
        """What an engine's failure means for the task."""
        if isinstance(error, EngineUnreachable | EngineBusy) and not self.readable:
            return Rerun(str(error))
        if isinstance(error, EngineLost):
            return self._reset(str(error))
        return Failed(error.code, str(error))

    def _reset(self, why: str) -> Ending:
        if self.readable:
            return Failed(ErrorCode.WORKER_RESET, f"{why}; part of the answer was already sent")
        return Rerun(why, reset=True)
