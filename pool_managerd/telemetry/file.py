"""`gpus.source: file`: cards as a JSON file tells of them, read again at each sample."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import structlog
from pydantic import ValidationError

from contracts.pools import DeviceSample, DeviceView
from pool_managerd.clock import SystemClock
from pool_managerd.telemetry.sampler import Take

FILE_BYTES_MAX = 1024 * 1024

_log = structlog.get_logger(__name__)


class FileSource:
    """A file that stands in for the cards; a bad one leaves the last figures stale."""

    def __init__(self, path: Path, sample_ms: int) -> None:
        self._path = path
        self._sample_ms = sample_ms
        self._complained = False
        self._clock = SystemClock()
        self._xids: dict[str, tuple[int | None, int]] = {}

    async def run(self, take: Take) -> None:
        """See `DeviceSource`."""
        while True:
            await self._sample(take)
            await anyio.sleep(self._sample_ms / 1000)

    async def _sample(self, take: Take) -> None:
        """Take what the file says; of a file that stays bad the log hears once."""
        began_ms = self._clock.now_ms()
        try:
            # A dead file server must hold up neither the daemon nor its stop.
            sample = await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        except (OSError, ValueError) as error:
            if not self._complained:
                _log.warning("telemetry.bad_file", file=str(self._path), message=_reason(error))
            self._complained = True
            return
        self._complained = False
        take(DeviceSample(devices=tuple(map(self._counted, sample.devices))), began_ms)

    def _counted(self, card: DeviceView) -> DeviceView:
        """The card with its Xid errors counted, where the file only names the newest."""
        if "xid_count" in card.model_fields_set:
            return card
        last, count = self._xids.get(card.uuid, (None, 0))
        if card.xid is not None and card.xid != last:
            count += 1
        self._xids[card.uuid] = (card.xid, count)
        return card.model_copy(update={"xid_count": count})

    def _read(self) -> DeviceSample:
        if not self._path.is_file():
            raise OSError(f"{self._path} is not a file")
        with self._path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ValueError(f"larger than {FILE_BYTES_MAX} bytes")
        return DeviceSample.model_validate_json(content)


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
