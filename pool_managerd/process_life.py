"""The life of a replica whose process is ours.

Three things can end it: the process exits, it never comes to serve, or it stops
answering.  They are awaited together and the first one counts; a supervisor that
waited for readiness alone would go on asking a process that is long dead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from contracts.pools import FailureReason
from contracts.service.failpoints import Failpoints
from contracts.service.settings import child_environment
from pool_managerd.domain.replica_state import Move
from pool_managerd.failure import Failure, LaunchRefused, exit_failure
from pool_managerd.launch import Launch, prepare
from pool_managerd.life import Served, engine_failure
from pool_managerd.models.digest import ModelDigests
from pool_managerd.models.resolve import ModelResolver
from pool_managerd.process import ReplicaProcess, start
from pool_managerd.process_group import end_group
from pool_managerd.readiness import NotOurs, until_lost, until_ours, until_serving
from pool_managerd.replica import Replica
from pool_managerd.replica_log import ReplicaLog
from pool_managerd.run_records import RunRecords, identify
from pool_managerd.telemetry.sampler import Sampler
from worker_adapters.base import EngineClient, Observation
from worker_adapters.errors import EngineError
from worker_adapters.registry import ENGINES, new_client
from worker_adapters.transport import EngineTransport

START_TIMEOUT_S = 600.0
"""From the launch to the first token; a large model on a slow disk takes minutes."""
LOG_BOUND_S = 0.5
SPAWN_DEADLINE_S = 10.0
REAP_S = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LaunchTools:
    """What launching needs; one for all replicas."""

    records: RunRecords
    telemetry: Sampler
    digests: ModelDigests
    transport: EngineTransport
    state_dir: Path
    stop_grace_ms: int
    models: ModelResolver = field(default_factory=ModelResolver.files_only)
    start_timeout_s: float = START_TIMEOUT_S
    failpoints: Failpoints = field(default_factory=Failpoints.none)


class ProcessLife:
    """One process after another; at most one at any time."""

    def __init__(self, replica: Replica, tools: LaunchTools) -> None:
        self._replica = replica
        self._tools = tools
        self._pool = replica.entry.pool
        launchers = ENGINES[self._pool.engine].launchers
        # A command speaks the dialect of its engine, and mostly wraps its program.
        self._launcher = launchers.get(self._pool.provisioning.mode, launchers["binary"])
        self._log = ReplicaLog(tools.state_dir, replica.entry.replica_id)
        self._process: ReplicaProcess | None = None
        self._digest_accepted = anyio.Event()

    async def live(self, served: Served) -> Failure:
        """Launch, wait until it serves, watch it; returns the first failure."""
        self._digest_accepted = anyio.Event()
        try:
            tools, replica = self._tools, self._replica
            launch = await prepare(replica.entry, tools.telemetry, tools.models, replica.preparing)
            process = await self._start(launch)
        except LaunchRefused as refused:
            return refused.failure
        await self._replica.advance(Move.SPAWNED)
        return await _first(
            partial(self._exit, process, launch),
            partial(self._serve, process, launch, served),
            partial(self._check_digest, launch),
            self._bound_log,
        )

    async def end(self) -> None:
        """End the process group: by TERM first, unless its leader is dead already."""
        process = self._process
        if process is None:
            return
        await end_group(process.pid, 0 if process.exited else self._tools.stop_grace_ms)
        with anyio.move_on_after(REAP_S):
            await process.wait()
        await anyio.to_thread.run_sync(self._tools.records.remove, self._replica.entry.replica_id)
        self._process = None

    async def _start(self, launch: Launch) -> ReplicaProcess:
        """Start the process and record it; not to be torn apart by a cancellation.

        A stop that came between the two would leave a process that nobody knows.
        """
        replica_id = self._replica.entry.replica_id
        try:
            with anyio.fail_after(SPAWN_DEADLINE_S, shield=True):
                self._tools.failpoints.hit("replica.spawn")
                env = child_environment(launch.plan.env)
                process = self._process = await start(launch.plan.argv, env, self._log)
                record = identify(replica_id, process.pid, launch.spec.api_key)
                await anyio.to_thread.run_sync(self._tools.records.write, record)
        except OSError as error:
            # A full disk, mostly: it may have room at the next try.
            raise LaunchRefused(
                FailureReason.EXITED, f"its log or record cannot be written: {error}"
            ) from error
        self._replica.launched(launch.endpoint, process.pid, launch.spec.device_uuids)
        return process

    async def _exit(self, process: ReplicaProcess, launch: Launch) -> Failure:
        """Why the process ended, once it has."""
        exit_code = await process.wait()
        self._replica.lost()
        tail = await self._tail(launch)
        reason = self._launcher.exit_reason(exit_code, tail)
        program = "the embedded engine"
        if self._pool.provisioning.mode != "embedded":
            program = Path(launch.plan.argv[0]).name
        model_there = await anyio.to_thread.run_sync(launch.model.is_file)
        return exit_failure(reason, exit_code, program, tail, model_there=model_there)

    async def _serve(self, process: ReplicaProcess, launch: Launch, served: Served) -> Failure:
        """Why it does not serve, or does not any more, though its process lives."""
        endpoint = launch.endpoint
        client = new_client(
            self._pool.engine, self._tools.transport, endpoint.base_url, endpoint.api_key
        )
        try:
            with anyio.fail_after(self._tools.start_timeout_s):
                await self._become_ready(client, process, launch)
        except NotOurs as error:
            return error.failure
        except EngineError as error:
            return replace(engine_failure(error), log_tail=await self._tail(launch))
        except TimeoutError:
            message = f"it did not serve within {self._tools.start_timeout_s:g} s of its start"
            return Failure(FailureReason.START_TIMEOUT, message, await self._tail(launch))
        await served()
        await until_lost(client, self._answered, self._replica.unanswered)
        message = "its process lives but takes no connections any more"
        return Failure(FailureReason.UNREACHABLE, message, await self._tail(launch))

    async def _become_ready(
        self, client: EngineClient, process: ReplicaProcess, launch: Launch
    ) -> None:
        await until_ours(client, launch.spec.port, process.pid)
        self._replica.observed(self._named(await until_serving(client)))
        if self._pool.model.digest is not None:
            await self._digest_accepted.wait()

    async def _answered(self, seen: Observation) -> None:
        await self._replica.answered(self._named(seen))

    def _named(self, seen: Observation) -> Observation:
        """The observation with the version that only the launcher knows, where it does."""
        version = self._launcher.engine_version()
        return seen if version is None else replace(seen, engine_version=version)

    async def _check_digest(self, launch: Launch) -> Failure | None:
        """Why the model file is refused, if it is."""
        wanted = self._pool.model.digest
        try:
            digest = await self._tools.digests.of(launch.model)
        except OSError as error:
            if wanted is not None:
                return Failure(FailureReason.MODEL_INVALID, f"{launch.model}: {error}")
            _log.warning("model.digest_unknown", model=str(launch.model), message=str(error))
            return None
        self._replica.hashed(digest)
        if wanted not in (None, digest):
            return Failure(
                FailureReason.MODEL_INVALID,
                f"{launch.model} has digest {digest}, and model.digest asks for {wanted};"
                " replace the file or the digest, then restart pool_managerd",
            )
        self._digest_accepted.set()
        return None

    async def _bound_log(self) -> None:
        """Keep the log bounded for ever."""
        while True:
            await anyio.sleep(LOG_BOUND_S)
            try:
                await anyio.to_thread.run_sync(self._log.bound)
            except OSError as error:
                _log.warning("replica.log_unbounded", file=str(self._log.path), message=str(error))

    async def _tail(self, launch: Launch) -> tuple[str, ...]:
        try:
            return await anyio.to_thread.run_sync(self._log.tail, launch.spec.api_key)
        except OSError as error:
            return (f"(its log cannot be read: {error})",)


async def _first(*watches: Callable[[], Awaitable[Failure | None]]) -> Failure:
    """The first failure that a watch returns; the other watches are cancelled."""
    failures: list[Failure] = []
    async with anyio.create_task_group() as group:

        async def run(watch: Callable[[], Awaitable[Failure | None]]) -> None:
            failure = await watch()
            if failure is not None:
                failures.append(failure)
                group.cancel_scope.cancel()

        for watch in watches:
            group.start_soon(run, watch)
    return failures[0]
