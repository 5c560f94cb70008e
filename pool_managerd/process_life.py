"""The life of a replica whose process is ours, started here or taken back.

Three things can end it: the process exits, it never comes to serve, or it does not
move on any more.  They are awaited together and the first one counts; a supervisor
that waited for readiness alone would go on asking a process that is long dead.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from contracts.pools import FailureReason
from contracts.service.settings import child_environment
from pool_managerd.adoption import Survivor, end_recorded, is_alive
from pool_managerd.card_watch import NOTHING, CardWatch
from pool_managerd.domain.replica_state import Move
from pool_managerd.domain.vram import MemoryMark, memory_mark
from pool_managerd.failure import Ending, Failure, LaunchRefused, exit_failure
from pool_managerd.launch import Launch, prepare
from pool_managerd.launch_tools import LaunchTools
from pool_managerd.life import Served, engine_failure, first_failure
from pool_managerd.membership import Membership
from pool_managerd.observed import within_bounds
from pool_managerd.oom import VMSTAT, OomMark, oom_mark
from pool_managerd.process import ReplicaProcess, start
from pool_managerd.process_group import end_group, run_end
from pool_managerd.provisioning.launchers import engine_version, launcher_of, shown
from pool_managerd.provisioning.tools import ProvisioningTools
from pool_managerd.readiness import Unfit, until_adopted, until_ours, until_serving
from pool_managerd.replica import Replica
from pool_managerd.replica_log import ReplicaLog
from pool_managerd.run_records import LaunchFacts, identify
from pool_managerd.running import Running, facts_of
from pool_managerd.watching import EngineWatch
from worker_adapters.base import EngineClient, Observation
from worker_adapters.errors import EngineError
from worker_adapters.registry import new_client

SPAWN_DEADLINE_S = 10.0
REAP_S = 1.0
LAUNCH_KEY = "LLAMA_ORCH_LAUNCH_KEY"
"""Read by no engine: also one that takes no key can be told again by the next start."""
IN_CONTAINER = frozenset({"container"})
"""Modes whose processes are none of our group, and numbered otherwise."""

_log = structlog.get_logger(__name__)


class ProcessLife:
    """One process after another; at most one at any time.

    Args:
        survivor: the process that an earlier start of this daemon left of it.
    """

    def __init__(
        self, replica: Replica, tools: LaunchTools, survivor: Survivor | None = None
    ) -> None:
        self._replica = replica
        self._tools = tools
        self._pool = replica.entry.pool
        self._launcher = launcher_of(self._pool)
        self._log = replica.log = ReplicaLog(tools.state_dir, replica.entry.replica_id)
        self._survivor = survivor
        self._process: ReplicaProcess | None = None
        self._cards: CardWatch | None = None
        self._oom = OomMark(VMSTAT, 0)
        self._end_argv: tuple[str, ...] = ()
        self._member: Membership | None = None

    @property
    def adopts(self) -> bool:
        """Whether the next life is that of a process found alive."""
        return self._survivor is not None

    async def live(self, served: Served) -> Failure:
        """Launch or adopt, wait until it serves, watch it; returns the first failure."""
        try:
            running = await self._begin()
        except LaunchRefused as refused:
            return refused.failure
        member = self._membership(running.facts, adopted=running.adopted)
        try:
            return await first_failure(
                partial(self._exit, running),
                partial(self._serve, running, served, member),
                member.learn_digest,
                self._watch_cards,
            )
        finally:
            member.leave()

    async def mended(self) -> None:
        """Return once its pool serves another model or engine, or its file is another one."""
        if self._member is None:
            await anyio.sleep_forever()
        else:
            await self._member.until_mended()

    async def end(self, memory_s: float) -> None:
        """End the process group: by TERM first, unless its leader is dead already.

        Returns once the memory of its cards is back, or `memory_s` after its end.
        """
        process = self._process
        if process is None:
            await self._end_survivor()
            return
        memory = None if self._cards is None else await self._cards.before_end()
        await end_group(process.pid, 0 if process.exited else self._tools.stop_grace_ms)
        await run_end(self._end_argv)
        if self._cards is not None and memory is not None:
            held = await self._cards.memory_back(memory, memory_s)
            if held is not None:
                _log.warning("replica.memory_held", message=held)
                self._replica.failed(Failure(FailureReason.VRAM_HELD, held))
        with anyio.move_on_after(REAP_S):
            await process.wait()
        await anyio.to_thread.run_sync(self._tools.records.remove, self._replica.entry.replica_id)
        self._tools.log_keeper.remove(self._log)
        process.close()
        self._process = None

    async def _end_survivor(self) -> None:
        """End what was to be taken back, where the stop came before that."""
        survivor, self._survivor = self._survivor, None
        if survivor is None:
            return
        await end_recorded(survivor.record, self._tools.records, self._tools.stop_grace_ms)

    async def _begin(self) -> Running:
        """The process of this life; raises `LaunchRefused`."""
        survivor, self._survivor = self._survivor, None
        if survivor is not None:
            running = self._take_back(survivor)
            self._oom = await anyio.to_thread.run_sync(oom_mark, running.process.pid)
            return running
        tools, replica = self._tools, self._replica
        launch = await prepare(
            replica.entry, tools.telemetry, self._provisioning(), tools.reserve_bytes
        )
        facts = await self._facts(launch)
        await self._membership(facts, adopted=False).check_before_launch()
        before = memory_mark(tools.telemetry.devices, launch.spec.device_uuids)
        running = await self._start(launch, facts)
        self._cards = self._card_watch(running, before)
        self._oom = await anyio.to_thread.run_sync(oom_mark, running.process.pid)
        await self._replica.advance(Move.SPAWNED)
        return running

    def _membership(self, facts: LaunchFacts, *, adopted: bool) -> Membership:
        tools = self._tools
        self._member = Membership(
            self._replica,
            tools.identities,
            tools.digests,
            Path(facts.model),
            facts.model_stamp,
            adopted=adopted,
        )
        return self._member

    async def _facts(self, launch: Launch) -> LaunchFacts:
        """What is recorded of a launch; the stamp is that of the file before it is loaded."""
        program = "the embedded engine"
        if self._pool.provisioning.mode != "embedded":
            program = Path(launch.plan.argv[0]).name
        try:
            stamp = await anyio.to_thread.run_sync(self._tools.digests.stamp, launch.model)
        except OSError as error:
            # An engine may take what cannot be hashed; its digest stays unknown.
            _log.warning("model.stamp_unknown", model=str(launch.model), message=str(error))
            stamp = ""
        fingerprint = self._replica.entry.fingerprint
        return facts_of(launch, fingerprint, program, stamp, self._tools.clock.unix_ms())

    def _provisioning(self) -> ProvisioningTools:
        tools, replica = self._tools, self._replica
        return ProvisioningTools(
            state_dir=tools.state_dir,
            downloads_allowed=tools.downloads_allowed,
            models=tools.models,
            preparing=replica.preparing,
            unix_ms=tools.clock.unix_ms,
            holder=replica.entry.replica_id,
        )

    def _take_back(self, survivor: Survivor) -> Running:
        record = survivor.record
        try:
            process = self._process = ReplicaProcess(record.pid)
        except ProcessLookupError:
            process = None
        if process is None or not is_alive(record):
            raise LaunchRefused(
                FailureReason.EXITED, "it ended while no pool_managerd watched over it"
            )
        self._tools.log_keeper.add(self._log)
        running = Running.adopted_from(survivor, process)
        self._end_argv = running.facts.end_argv
        self._log.conceal(running.api_key)
        _log.info("replica.adopted", replica_id=record.replica_id, pid=record.pid)
        self._replica.launched(running.endpoint, process.pid, running.facts.device_uuids)
        self._cards = self._card_watch(running, NOTHING)
        return running

    def _card_watch(self, running: Running, before: MemoryMark) -> CardWatch:
        in_container = self._pool.provisioning.mode in IN_CONTAINER
        return CardWatch(
            self._replica,
            self._tools.telemetry,
            running.facts.device_uuids,
            None if in_container else running.process.pid,
            before,
        )

    async def _watch_cards(self) -> None:
        if self._cards is not None:
            await self._cards.run()

    async def _start(self, launch: Launch, facts: LaunchFacts) -> Running:
        """Start the process and record it; not to be torn apart by a cancellation.

        A stop that came between the two would leave a process that nobody knows.
        """
        entry, spec = self._replica.entry, launch.spec
        self._end_argv = facts.end_argv
        try:
            with anyio.fail_after(SPAWN_DEADLINE_S, shield=True):
                self._tools.failpoints.hit("replica.spawn")
                env = child_environment({LAUNCH_KEY: spec.api_key, **launch.plan.env})
                self._log.conceal(spec.api_key)
                self._tools.log_keeper.add(self._log)
                process = self._process = await start(launch.plan.argv, env, self._log)
                record = identify(entry.replica_id, process.pid, spec.api_key, facts)
                await anyio.to_thread.run_sync(self._tools.records.write, record)
        except OSError as error:
            # A full disk, mostly: it may have room at the next try.
            raise LaunchRefused(
                FailureReason.EXITED, f"its log or record cannot be written: {error}"
            ) from error
        running = Running(process, facts, spec.api_key, adopted=False)
        self._replica.launched(running.endpoint, process.pid, spec.device_uuids)
        return running

    async def _exit(self, running: Running) -> Failure:
        """Why the process ended, once it has."""
        exit_code = await running.process.wait()
        self._replica.lost()
        tail = await self._tail(running)
        reason = self._launcher.exit_reason(exit_code, tail)
        model_there = await anyio.to_thread.run_sync(running.model.exists)
        ending = Ending(
            exit_code,
            oom_killed=await anyio.to_thread.run_sync(self._oom.killed_since),
            xid=None if self._cards is None else self._cards.new_xid(),
        )
        program = running.facts.program
        return exit_failure(reason, ending, program, tail, model_there=model_there)

    async def _serve(self, running: Running, served: Served, member: Membership) -> Failure:
        """Why it does not serve, or does not any more, though its process lives."""
        tools, endpoint = self._tools, running.endpoint
        client = new_client(self._pool.engine, tools.transport, endpoint.base_url, endpoint.api_key)
        client.ask_for(self._pool.model.id)
        try:
            with anyio.fail_after(tools.start_timeout_s):
                await self._become_ready(client, running, member)
        except Unfit as error:
            return error.failure
        except EngineError as error:
            return replace(engine_failure(error), log_tail=await self._tail(running))
        except TimeoutError:
            return await self._silent(running)
        await served()
        lost = await self._watch(client).until_lost()
        return replace(lost, log_tail=await self._tail(running))

    async def _silent(self, running: Running) -> Failure:
        tail = await self._tail(running)
        if running.adopted:
            message = "it outlived an earlier pool_managerd and says nothing any more"
            return Failure(FailureReason.NOT_PROGRESSING, message, tail)
        message = f"it did not serve within {self._tools.start_timeout_s:g} s of its start"
        return Failure(FailureReason.START_TIMEOUT, message, tail)

    def _watch(self, client: EngineClient) -> EngineWatch:
        tools, replica_id = self._tools, self._replica.entry.replica_id
        return EngineWatch(
            self._replica,
            client,
            tools.clock,
            tools.patience,
            partial(tools.leasing.work, replica_id),
            partial(tools.leasing.coldest_slot, replica_id),
            self._named,
        )

    async def _become_ready(
        self, client: EngineClient, running: Running, member: Membership
    ) -> None:
        await until_ours(client, running.facts.port, running.process.pid)
        ask = until_adopted if running.adopted else until_serving
        introduction = await ask(client, self._pool.workload)
        seen = within_bounds(self._named(introduction.observation))
        self._replica.observed(seen)
        self._replica.introduced(shown(introduction.capabilities, self._pool))
        await member.join(seen.engine_version)

    def _named(self, seen: Observation) -> Observation:
        """The observation with the version that only the launcher knows, where it does."""
        version = engine_version(self._pool)
        return seen if version is None else replace(seen, engine_version=version)

    async def _tail(self, running: Running) -> tuple[str, ...]:
        try:
            return await anyio.to_thread.run_sync(self._log.tail, running.api_key)
        except OSError as error:
            return (f"(its log cannot be read: {error})",)
