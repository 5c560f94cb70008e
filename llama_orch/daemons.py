"""Both daemons as processes of sessions of their own, started and stopped together.

A session of its own keeps the terminal's Ctrl-C from reaching a daemon: we take
it and stop them in order, orchestratord first, so that every stream gets its
terminal event while the engines still run.

Their output goes to files in the state directory, opened for appending, so that
a daemon outlives us (`quickstart --keep`) and a file that has grown too large can
be cut under the daemon's pen.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio

from contracts.config import Config
from llama_orch.connection import running_daemon
from llama_orch.failures import Failed

ORCHESTRATORD = "orchestratord"
POOL_MANAGERD = "pool_managerd"
NAMES = (POOL_MANAGERD, ORCHESTRATORD)

START_DEADLINE_S = 30.0
POLL_S = 0.05
LOG_BYTES_MAX = 16 * 2**20
LOG_TAIL_BYTES = 16 * 1024
LOG_TAIL_LINES = 8
# Exit codes a daemon explains in its last line: state damaged, busy, bad configuration.
EXPLAINED_EXITS = frozenset({70, 75, 78})
# With these it has stopped its engines, or never had any.
CLEAN_EXITS = EXPLAINED_EXITS | {0}
# What a daemon allows itself past `drain_ms`, and what we add to that.
STOP_SLACK_S = 5.0 + 3.0


class Daemon:
    """One daemon process."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def running(self) -> bool:
        """False once it has ended (its exit status is then collected)."""
        return self.process.poll() is None

    async def ended(self) -> None:
        """Return once the process has ended."""
        while self.running:  # noqa: ASYNC110  the end of a process is no event of ours
            await anyio.sleep(POLL_S)

    def terminate(self) -> None:
        """Ask it to drain; nothing happens where it has ended."""
        if self.running:
            self.process.terminate()

    def kill(self) -> None:
        """End it at once."""
        if self.running:
            self.process.kill()

    def bound_log(self) -> None:
        """Cut a log that has grown too large, keeping its end in NAME.log.1."""
        try:
            if self.log.stat().st_size > LOG_BYTES_MAX:
                self.log.with_suffix(".log.1").write_bytes(_end_of(self.log, LOG_BYTES_MAX // 2))
                os.truncate(self.log, 0)
        except OSError:
            return  # a log is not worth stopping for

    def death(self) -> Failed:
        """Why it ended, with its last lines."""
        tail = log_tail(self.log)
        code = self.process.returncode
        if code in EXPLAINED_EXITS and tail:
            return Failed(f"{self.name} did not start: {tail[-1].removeprefix(f'{self.name}: ')}")
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        lines = "".join(f"\n  {line}" for line in tail)
        return Failed(f"{self.name} {how}; its last lines, from {self.log}:{lines}")


class Daemons:
    """pool_managerd and orchestratord on one configuration file.

    `environment` None is ours; a mapping replaces it.
    """

    def __init__(
        self,
        config: Config,
        config_path: Path,
        state_dir: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.state_dir = state_dir
        self._config = config
        self._config_path = config_path
        self._environment = environment
        self._daemons: dict[str, Daemon] = {}

    async def start(self) -> str:
        """Start both, wait until both listen, return orchestratord's URL.

        Raises:
            Failed: one ended instead, or did not listen in time.
        """
        logs = self.state_dir / "logs"
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in NAMES:
            log = logs / f"{name}.log"
            log.unlink(missing_ok=True)
            self._daemons[name] = self._spawn(name, log)
        with anyio.move_on_after(START_DEADLINE_S):
            return await self._listening()
        raise Failed(f"the daemons did not listen within {START_DEADLINE_S:.0f} s; see {logs}")

    async def first_death(self) -> Failed:
        """Wait until one ends, and say why; bounds their logs meanwhile."""
        while True:
            for daemon in self._daemons.values():
                if not daemon.running:
                    return daemon.death()
                daemon.bound_log()
            await anyio.sleep(10 * POLL_S)

    async def stop(self, hurry: anyio.Event) -> None:
        """Stop orchestratord, then pool_managerd, which stops its engines.

        With `hurry` set orchestratord is killed, which loses nothing that was
        accepted; pool_managerd is always given its time, because it alone knows
        which engine processes to stop.

        Raises:
            Failed: pool_managerd was killed, and its engines may still run.
        """
        drain_s = self._config.timeouts.drain_ms / 1000 + STOP_SLACK_S
        orchestratord = self._daemons.get(ORCHESTRATORD)
        if orchestratord is not None:
            orchestratord.terminate()
            with anyio.move_on_after(drain_s):
                await _first(orchestratord.ended, hurry.wait)
            orchestratord.kill()
            await orchestratord.ended()
        manager = self._daemons.get(POOL_MANAGERD)
        if manager is None:
            return
        manager.terminate()
        with anyio.move_on_after(drain_s + self._config.timeouts.stop_grace_ms / 1000):
            await manager.ended()
        manager.kill()
        await manager.ended()
        if manager.process.returncode not in CLEAN_EXITS:
            await self._sweep(manager.log)

    async def _sweep(self, log: Path) -> None:
        """End the engines of a pool_managerd that was killed.

        Only it knows which processes they are, and to tell them from strangers with
        the same pid: so it is started once more.  It ends what was left behind before
        it listens, and is then stopped in good order.
        """
        sweeper = self._spawn(POOL_MANAGERD, log)
        with anyio.move_on_after(START_DEADLINE_S):
            while sweeper.running and not self._url_of(sweeper):  # noqa: ASYNC110  as above
                await anyio.sleep(POLL_S)
            sweeper.terminate()
            await sweeper.ended()
        if sweeper.running or sweeper.process.returncode != 0:
            sweeper.kill()
            await sweeper.ended()
            raise Failed(
                "pool_managerd was killed and its engine processes may still run; see"
                f" {log}, and `llama-orch up` ends them at its next start"
            )

    def pids(self) -> tuple[int, int]:
        """Process ids: orchestratord's, pool_managerd's."""
        return (
            self._daemons[ORCHESTRATORD].process.pid,
            self._daemons[POOL_MANAGERD].process.pid,
        )

    def _spawn(self, name: str, log: Path) -> Daemon:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", name, "--config", str(self._config_path)],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=self._environment,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        return Daemon(name, process, log)

    async def _listening(self) -> str:
        """Wait until both listen."""
        while True:
            for daemon in self._daemons.values():
                if not daemon.running:
                    raise daemon.death()
            urls = {name: self._url_of(daemon) for name, daemon in self._daemons.items()}
            if all(urls.values()):
                return urls[ORCHESTRATORD]
            await anyio.sleep(POLL_S)

    def _url_of(self, daemon: Daemon) -> str:
        """Where `daemon` listens, empty until it does; a predecessor's file is not its own."""
        found = running_daemon(self.state_dir, daemon.name)
        return found.url if found is not None and found.pid == daemon.process.pid else ""


def log_tail(path: Path) -> list[str]:
    """The last lines of a daemon's log, its JSON lines made readable."""
    try:
        raw = _end_of(path, LOG_TAIL_BYTES)
    except OSError:
        return []
    lines = raw.decode("utf-8", "replace").split("\n")
    return [_readable(line) for line in lines if line.strip()][-LOG_TAIL_LINES:]


def _readable(line: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return line[:500]
    if not isinstance(record, dict) or "event" not in record:
        return line[:500]
    rest = {
        key: value
        for key, value in record.items()
        if key not in ("event", "level", "at", "daemon", "correlation_id")
    }
    facts = "".join(f" {key}={value}" for key, value in rest.items())
    return f"{record.get('level', '')}: {record['event']}{facts}".lstrip(": ")[:500]


def _end_of(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read(size)


async def _first(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when the first of `waits` does; the others are canceled."""
    async with anyio.create_task_group() as group:

        async def one(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            group.cancel_scope.cancel()

        for wait in waits:
            group.start_soon(one, wait)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
