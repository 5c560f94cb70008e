"""`logs WORKER`: what an engine writes, asked of pool_managerd.

Exit codes: 0 told, or Ctrl-C under `-f`; 1 the configuration cannot be used; 2 usage,
a pool of several replicas among it; 3 no pool_managerd answers; 4 it refused: no such
replica, or its engine is not started here.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from typing import Annotated

import anyio
import httpx2
import typer
from anyio.abc import TaskStatus

from contracts.pools import PoolHealth
from llama_orch.api import Api
from llama_orch.connection import Connection, discover_pool_managerd
from llama_orch.failures import Failed, Unreachable, UsageMistake
from llama_orch.options import ConfigFile, Json, TokenFile, checked_pool_id
from llama_orch.output import Output

LINES = 200
LINES_MAX = 10_000
FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 2.0
AWAY_S_MAX = 120.0
"""So long a pool_managerd that is followed may be away."""


def logs(
    worker: Annotated[
        str,
        typer.Argument(metavar="WORKER", help="A replica as chat/0, or a pool that has one only."),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes; Ctrl-C ends it.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", help="How many of the lines that are there.")
    ] = LINES,
    json_mode: Json = False,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", metavar="URL", help="Where pool_managerd listens; else the running one."
        ),
    ] = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Show the log of an engine, its last lines or as it grows."""
    if not 0 <= lines <= LINES_MAX:
        raise UsageMistake(f"--lines: write a number from 0 to {LINES_MAX:,}")
    found = re.fullmatch(r"([^/]*)(?:/([0-9]{1,3}))?", worker)
    if found is None:
        raise UsageMistake(f"{worker!r} is no replica: it looks like chat/0; see `llama-orch ps`")
    checked_pool_id(found[1])

    def connect() -> Connection:
        # Read anew each time: a pool_managerd that was restarted listens elsewhere.
        return discover_pool_managerd(url, token_file, config)

    reader = _Reader(connect, Output(json_mode=json_mode), worker)
    return anyio.run(reader.follow if follow else reader.show, lines)


class _Reader:
    def __init__(self, connect: Callable[[], Connection], output: Output, worker: str) -> None:
        self._connect = connect
        self._output = output
        self._worker = worker

    async def show(self, lines: int) -> int:
        async with Api(self._connect()) as api:
            await self._resolve(api)
            await self._read(api, lines, follow=False)
        return 0

    async def follow(self, lines: int) -> int:
        """As `show`, and then what comes, until Ctrl-C.

        Raises:
            Unreachable: pool_managerd stays away too long.
        """
        async with anyio.create_task_group() as group:
            # Heard even where whoever started this had the signal ignored.
            await group.start(_end_at_interrupt, group.cancel_scope)
            await self._follow(lines)
        return 0

    async def _follow(self, lines: int) -> None:
        await self._begin(lines)
        while True:
            self._output.note(f"{self._worker}: the connection to pool_managerd ended; waiting")
            await self._back()

    async def _begin(self, lines: int) -> None:
        async with Api(self._connect()) as api:
            await self._resolve(api)
            await self._read(api, lines, follow=True)

    async def _back(self) -> None:
        """Read on at the next pool_managerd, until that one ends too."""
        delay_s, last = FIRST_DELAY_S, Unreachable("pool_managerd did not come back")
        deadline = anyio.current_time() + AWAY_S_MAX
        while anyio.current_time() < deadline:
            await anyio.sleep(delay_s)
            delay_s = min(LONGEST_DELAY_S, delay_s * 2)
            try:
                async with Api(self._connect()) as api:
                    await self._read(api, 0, follow=True, back=True)
                    return
            except Unreachable as error:
                last = error
        raise last

    async def _read(self, api: Api, lines: int, *, follow: bool, back: bool = False) -> None:
        """Tell lines until they end, or the connection does."""
        params = {"tail": str(lines), "follow": "true" if follow else "false"}
        try:
            async with api.text(f"/v1/replicas/{self._worker}/log", params) as response:
                if back:
                    self._output.note(
                        f"{self._worker}: pool_managerd is back; lines written meanwhile are not"
                        f" shown, `llama-orch logs {self._worker}` has them"
                    )
                async for line in response.aiter_lines():
                    self._tell(line)
        except httpx2.RequestError as error:
            if not follow:
                raise Failed(f"the connection broke: {error}; try again") from None

    def _tell(self, line: str) -> None:
        if self._output.json_mode:
            self._output.emit({"replica_id": self._worker, "line": line})
        else:
            self._output.write(line + "\n")

    async def _resolve(self, api: Api) -> None:
        """Make the name of a pool that of its only replica."""
        if "/" in self._worker:
            return
        pool = await api.get(f"/v1/pools/{self._worker}/health", PoolHealth)
        names = [replica.replica_id for replica in pool.replicas]
        if len(names) != 1:
            which = ", ".join(names) or "none"
            raise UsageMistake(
                f"pool {self._worker} has {len(names)} replicas: name one of {which}"
            )
        self._worker = names[0]


async def _end_at_interrupt(
    scope: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
