"""The life of a daemon: start, serve, drain, stop, and what its exit code says.

    0   stopped cleanly                 75  its lock or port is taken
    70  its state is damaged            78  its configuration is wrong
    1   anything else

The root task group lives outside the ASGI application, and the server is a child
task of it: a crash of a background task ends the process, which is safe because
starting is recovering, where a server over a dead engine room would go on saying
200.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.types import ASGIApp

from contracts.config import Listen
from contracts.service.config_source import ConfigError
from contracts.service.drain import Drain
from contracts.service.failpoints import Failpoints
from contracts.service.logs import configure_logs
from contracts.service.run_files import AlreadyRunning, RunFile, daemon_lock
from contracts.service.serve import PortBusy, listen, serve, tls_context
from contracts.service.settings import Settings, load_settings
from contracts.service.systemd import SystemdNotifier

log = structlog.get_logger()

DaemonName = Literal["orchestratord", "pool_managerd"]

EXIT_CLEAN = 0
EXIT_OTHER = 1
EXIT_STATE_DAMAGED = 70
EXIT_BUSY = 75
EXIT_BAD_CONFIG = 78

HARD_STOP_MARGIN_SECONDS = 5.0
LEAVE_MARGIN_SECONDS = 10.0
OPEN_FILES_BESIDE_SOCKETS = 1024
GARBAGE_THRESHOLDS = (10_000, 10, 10)
"""Of Python's collector, where its own are 700, 10, 10 (2,000 from Python 3.13 on)."""
HEARD_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StateDamaged(Exception):
    """The stored state cannot be used as it is; names the file; exit 70."""


def loop_turned() -> bool:
    """True: whoever calls it from the event loop has shown that it turns."""
    return True


@dataclass(frozen=True, slots=True)
class Service:
    """What a daemon serves, and how it stops.

    `stop` is called once, after `Drain.begin`, while HTTP is still answered: it
    finishes or cuts the work and lets every open stream end.  `reload` is called
    at SIGHUP with settings that were read again and found right.  `alive` says
    whether the loops that matter still turn; systemd's watchdog hears of us only
    while it is true.
    """

    app: ASGIApp
    stop: Callable[[], Awaitable[None]]
    reload: Callable[[Settings], Awaitable[None]] | None = None
    alive: Callable[[], bool] = loop_turned


OpenService = Callable[[Settings, Drain], AbstractAsyncContextManager[Service]]
"""Opens stores and background tasks around a `Service`; a crash of one leaves the block."""


@dataclass(frozen=True, slots=True)
class _Listener:
    socket: socket.socket
    tls: ssl.SSLContext | None


def run_daemon(
    name: DaemonName, open_service: OpenService, argv: Sequence[str] | None = None
) -> int:
    """Run a daemon to its end; returns its exit code, and says why on stderr."""
    arguments = _arguments(name, argv)
    os.umask(0o077)  # the database, logs and records are nobody else's to read
    try:
        settings = replace(
            load_settings(arguments.config, test_mode=arguments.test_mode),
            leave_replicas=getattr(arguments, "leave_replicas", False),
        )
        Failpoints.parsed(name, settings.failpoints)  # refused before anything is opened
        configure_logs(settings.config.observability.log_level, name)
        _raise_open_files(settings)
        tls = tls_context(settings.config.auth.tls)
        with daemon_lock(settings.state_dir, name):
            RunFile.remove(settings.state_dir, name)  # of a predecessor that was killed
            with listen(_where(name, settings), name) as listener:
                return _run(name, settings, _Listener(listener, tls), open_service)
    except ConfigError as error:
        return _ended(name, EXIT_BAD_CONFIG, str(error))
    except (AlreadyRunning, PortBusy) as error:
        return _ended(name, EXIT_BUSY, str(error))
    except StateDamaged as error:
        return _ended(name, EXIT_STATE_DAMAGED, str(error))
    except KeyboardInterrupt:
        return _ended(name, EXIT_OTHER, "interrupted while starting")
    # The last boundary of the process: a person reads one line, the log the rest.
    except Exception as error:
        log.exception("daemon.crashed")
        return _ended(name, EXIT_OTHER, f"stopped by an internal error: {_innermost(error)!r}")


def _run(
    name: DaemonName, settings: Settings, listener: _Listener, open_service: OpenService
) -> int:
    try:
        clean = anyio.run(
            _live,
            name,
            settings,
            listener,
            open_service,
            backend="asyncio",
            backend_options={"use_uvloop": True},
        )
    except BaseExceptionGroup as group:
        _raise_known(group)
    if clean:
        log.info("daemon.stopped")
        return EXIT_CLEAN
    return _ended(name, EXIT_OTHER, "stopping took too long and was cut short; see the log")


async def _live(
    name: DaemonName, settings: Settings, listener: _Listener, open_service: OpenService
) -> bool:
    """Serve until a signal; True where the stop finished within its deadline."""
    drain = Drain(settings.config.limits.streams)
    clean = True
    notifier = SystemdNotifier(settings.service_manager)
    # One hang-up that waits stands for all: the file is read after the newest of them.
    hang_up, hang_ups = anyio.create_memory_object_stream[None](1)
    async with hang_up, hang_ups, anyio.create_task_group() as root:
        await root.start(_watch_signals, drain, hang_up)
        async with open_service(settings, drain) as service:
            root.start_soon(_reload_at, hang_ups, settings, service, notifier)
            root.start_soon(notifier.watch, service.alive)
            clean = await _serve_until_drained(name, settings, listener, service, drain, notifier)
        root.cancel_scope.cancel()
    return clean


async def _serve_until_drained(
    name: DaemonName,
    settings: Settings,
    listener: _Listener,
    service: Service,
    drain: Drain,
    notifier: SystemdNotifier,
) -> bool:
    config = settings.config
    closing = anyio.Event()
    url = _url(_where(name, settings), listener)
    async with anyio.create_task_group() as server:

        async def serve_in_child(*, task_status: TaskStatus[None]) -> None:
            await serve(
                service.app,
                listener.socket,
                config.limits,
                closing.wait,
                tls=listener.tls,
                task_status=task_status,
            )

        await server.start(serve_in_child)
        _settle_garbage()
        RunFile.write(settings.state_dir, name, url)
        log.info("daemon.serving", url=url, config=str(settings.config_path))
        try:
            await notifier.ready(f"serving at {url}")
            await drain.wait_begun()
            await notifier.stopping()
            hard = config.timeouts.drain_ms / 1000 + HARD_STOP_MARGIN_SECONDS
            with anyio.move_on_after(hard) as deadline:
                await service.stop()
                await drain.wait_idle()
        finally:
            RunFile.remove(settings.state_dir, name)
            _force_exit(name, config.timeouts.stop_grace_ms / 1000 + LEAVE_MARGIN_SECONDS)
        closing.set()
    if deadline.cancelled_caught:
        log.error("daemon.stop_overran", seconds=hard, streams_open=drain.streams_open)
    return not deadline.cancelled_caught


async def _reload_at(
    hang_ups: MemoryObjectReceiveStream[None],
    settings: Settings,
    service: Service,
    notifier: SystemdNotifier,
) -> None:
    """Read the configuration again at each SIGHUP; a wrong one changes nothing."""
    async for _ in hang_ups:
        await notifier.reload(partial(_reloaded, settings, service))


async def _reloaded(settings: Settings, service: Service) -> str:
    """What became of a reload, in a line for `systemctl status`."""
    if service.reload is None:
        log.warning("daemon.reload_not_served", remedy="restart to read the config again")
        return "serving; restart to read the configuration again"
    try:
        fresh = await anyio.to_thread.run_sync(_read_again, settings)
    except ConfigError as error:
        log.warning("daemon.reload_refused", reason=str(error), remedy="correct the file")
        return f"serving by the old configuration: {error}"
    await service.reload(fresh)
    return "serving by the configuration that was read again"


def _read_again(settings: Settings) -> Settings:
    return load_settings(settings.config_path, test_mode=settings.test_mode, require_token=False)


async def _watch_signals(
    drain: Drain,
    hang_up: MemoryObjectSendStream[None],
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    try:
        with anyio.open_signal_receiver(*HEARD_SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    with suppress(anyio.WouldBlock):
                        hang_up.send_nowait(None)
                else:
                    log.info("daemon.stopping", signal=signal.Signals(number).name)
                    drain.begin()
    finally:
        # The receiver puts the defaults back, and the interpreter takes a while
        # to end: a second SIGTERM would turn a clean exit into a death.
        for number in HEARD_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _settle_garbage() -> None:
    """Leave what was loaded at start out of every further collection, and collect seldom.

    A full collection looks at every object there is: half a second with tens of
    thousands of queued tasks, in which nothing is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def _force_exit(name: str, seconds: float) -> None:
    """End the process `seconds` from now, where it has not ended by itself.

    A thread that hangs in the kernel, on a dead file server or a lost card, can
    be neither canceled nor left: the interpreter waits for it at exit, for ever.
    """

    def end() -> None:
        os._exit(_ended(name, EXIT_OTHER, "a hanging thread held up the exit; left without it"))

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _arguments(name: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=name, description=f"Run {name} in the foreground.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration (YAML)")
    parser.add_argument(
        "--test-mode", action="store_true", help="honour LLORCH_FAILPOINTS; for tests only"
    )
    if name == "pool_managerd":
        parser.add_argument(
            "--leave-replicas", action="store_true", help="leave the engines running at a stop"
        )
    return parser.parse_args(argv)


def _where(name: DaemonName, settings: Settings) -> Listen:
    config = settings.config
    return config.orchestratord if name == "orchestratord" else config.pool_managerd


def _url(where: Listen, listener: _Listener) -> str:
    """How a process on this machine reaches the listener."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where.host, where.host)  # noqa: S104
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{'https' if listener.tls else 'http'}://{host}:{listener.socket.getsockname()[1]}"


def _raise_open_files(settings: Settings) -> None:
    """Many desktops allow 1,024 open files, fewer than the sockets we promise."""
    wanted = settings.config.limits.connections + OPEN_FILES_BESIDE_SOCKETS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _raise_known(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the one exception that has an exit code, else the group itself."""
    known = group.subgroup((ConfigError, AlreadyRunning, PortBusy, StateDamaged))
    if known is not None:
        raise _innermost(known) from group
    raise group


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _ended(name: str, code: int, reason: str) -> int:
    sys.stderr.write(f"{name}: {' '.join(reason.split())}\n")
    return code
