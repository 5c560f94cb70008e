"""`gpus.source: nvml`: the driver's own figures, read by a child process.

The child has a deadline for every line.  One that hangs or dies is replaced,
later and later; until it speaks again the last figures stand and grow old.  Xid
errors are counted on over the children: each child counts from zero.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import anyio
import anyio.abc
import structlog
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import Field, ValidationError

from contracts.model import Contract
from contracts.pools import DeviceSample, DeviceView
from contracts.service.settings import child_environment
from pool_managerd.clock import SystemClock
from pool_managerd.telemetry.sampler import Take

LINE_BYTES_MAX = 1024 * 1024
DEADLINE_S = 5.0
RESTART_BASE_S = 0.5
RESTART_CAP_S = 30.0
ABSENT_RETRY_S = 60.0

_log = structlog.get_logger(__name__)


class _Absent(Contract):
    absent: str = Field(description="Why there is no driver.")


class _Line(DeviceSample):
    began_ms: int = Field(ge=0, description="When its reading began, monotonic ms.")


class _ChildFailed(Exception):
    """The child hung, ended or spoke nonsense."""


class NvmlSource:
    """Keeps a child sampling; `argv` and `deadline_s` are for tests that misbehave."""

    def __init__(
        self, sample_ms: int, argv: Sequence[str] | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self._argv = argv or (
            *(sys.executable, "-m", "pool_managerd.telemetry.nvml_child"),
            *("--sample-ms", str(sample_ms)),
        )
        self._deadline_s = deadline_s + sample_ms / 1000
        self._absence: str | None = None
        self._clock = SystemClock()
        self._xids: dict[str, tuple[int | None, int]] = {}

    async def run(self, take: Take) -> None:
        """See `DeviceSource`."""
        failures = 0
        while True:
            samples = 0

            def count(sample: DeviceSample | None, began_ms: int) -> None:
                nonlocal samples
                samples += 1
                take(sample, began_ms)

            try:
                absence = await self._sample(count)
            except _ChildFailed as error:
                failures = 1 if samples else failures + 1
                _log.warning("telemetry.nvml_failed", message=str(error), failures=failures)
                await anyio.sleep(min(RESTART_CAP_S, RESTART_BASE_S * 2 ** min(failures - 1, 10)))
            else:
                self._note_absence(absence)
                take(None, self._clock.now_ms())
                await anyio.sleep(ABSENT_RETRY_S)

    def _note_absence(self, absence: str) -> None:
        if absence != self._absence:
            _log.info("telemetry.no_driver", message=absence)
        self._absence = absence

    async def _sample(self, take: Take) -> str:
        """Run one child; returns why there is no driver, once it says so.

        Raises:
            _ChildFailed: it ended otherwise.
        """
        process = await anyio.open_process(
            list(self._argv),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
            start_new_session=True,
        )
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        earlier = dict(self._xids)
        try:
            while True:
                line = await self._line(lines)
                if line.startswith(b'{"absent"'):
                    return _Absent.model_validate_json(line).absent
                said = _Line.model_validate_json(line)
                cards = tuple(self._counted_on(card, earlier) for card in said.devices)
                take(DeviceSample(devices=cards), said.began_ms)
        except ValidationError as error:
            raise _ChildFailed(f"it said nonsense: {error.errors()[0]['msg']}") from error
        finally:
            await _ended(process)

    def _counted_on(
        self, card: DeviceView, earlier: dict[str, tuple[int | None, int]]
    ) -> DeviceView:
        """The card with the Xid errors that earlier children counted."""
        xid, count = earlier.get(card.uuid, (None, 0))
        total = (xid if card.xid is None else card.xid, count + card.xid_count)
        self._xids[card.uuid] = total
        return card.model_copy(update={"xid": total[0], "xid_count": total[1]})

    async def _line(self, lines: BufferedByteReceiveStream) -> bytes:
        try:
            with anyio.fail_after(self._deadline_s):
                return await lines.receive_until(b"\n", LINE_BYTES_MAX)
        except TimeoutError:
            raise _ChildFailed(f"it was silent for {self._deadline_s:g} s") from None
        except (anyio.IncompleteRead, anyio.DelimiterNotFound, anyio.EndOfStream) as error:
            raise _ChildFailed("it ended, or its line does not") from error


async def _ended(process: anyio.abc.Process) -> None:
    """Kill the child; one that hangs in the kernel is left to it."""
    with anyio.move_on_after(1.0, shield=True):
        if process.returncode is None:
            process.kill()
        await process.aclose()
