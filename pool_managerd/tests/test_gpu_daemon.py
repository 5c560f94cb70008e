"""A telemetry child that hangs or crashes under the real daemon."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from contracts.pools import Snapshot
from test_harness.nvml.build import SimulatedDriver, compiler
from test_harness.stack import Stack, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compiler() is None, reason="no C compiler: install gcc"),
]


@pytest.mark.parametrize("fault", ["hang", "crash"])
def test_a_driver_that_breaks_hurts_no_answer_and_zeroes_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """LO-POOL-042, LO-MET-006."""
    (tmp_path / "driver").mkdir()
    driver = SimulatedDriver(tmp_path / "driver")
    driver.show(c0_used_mib=1000)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver.directory))
    stack = Stack(tmp_path, [], gpus={"source": "nvml", "sample_ms": 100})
    try:
        stack.start("pool_managerd").wait_ready()
        with stack.client("pool_managerd") as client:

            def seen() -> Snapshot:
                return Snapshot.model_validate_json(client.get("/v1/snapshot").content)

            wait_for(lambda: seen().devices, "the cards are seen")
            driver.show(**{fault: 1})
            wait_for(lambda: (seen().devices_age_ms or 0) > 2_500, "the figures grow old")
            before = time.monotonic()
            text = client.get("/metrics").text
            assert time.monotonic() - before < 1.0
            uuid = seen().devices[0].uuid
            assert f'vram_used_bytes{{device="{uuid}"}} {float(1000 << 20)!r}' in text.replace(
                "1.048576e+09", "1048576000.0"
            )
            age = next(
                float(line.split()[1])
                for line in text.split("\n")
                if line.startswith("gpu_sample_age_seconds{")
            )
            assert age > 2
            assert [card.used_bytes for card in seen().devices] == [1000 << 20, 300 << 20]
            assert client.get("/readyz").status_code == 200
    finally:
        stack.stop()
