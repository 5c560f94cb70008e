"""Whether orchestratord stays awake and small while something is done to it."""

from __future__ import annotations

import http.client
import threading
import time
from typing import Self
from urllib.parse import urlsplit

import psutil

from test_harness.bench.report import percentile
from test_harness.stack import Stack

EVERY_S = 0.02
ANSWER_S = 30.0
STOP_S = 60.0
MIB = 1_048_576


class Watch:
    """Asks `/healthz` and looks at the resident memory, over and over, around a block."""

    def __init__(self, stack: Stack) -> None:
        self._address = urlsplit(stack.url).netloc
        self._process = psutil.Process(stack.daemons["orchestratord"].process.pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._waits: list[float] = []
        self._failures: list[str] = []
        self.began_bytes = self.peak_bytes = self.resident_bytes()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(STOP_S)

    @property
    def healthz_p99_ms(self) -> float:
        """How long an answer took, but for the slowest hundredth; none may have failed."""
        assert not self._failures, self._failures
        return 1000 * percentile(self._waits, 0.99)

    @property
    def growth_mib(self) -> float:
        """Resident memory at its highest, over that at the beginning."""
        return (self.peak_bytes - self.began_bytes) / MIB

    def resident_bytes(self) -> int:
        """Resident memory now."""
        return int(self._process.memory_info().rss)

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=ANSWER_S)
        while not self._over.wait(EVERY_S):
            began = time.perf_counter()
            try:
                _ask(connection)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self._failures.append(repr(error))
                connection.close()
            self._waits.append(time.perf_counter() - began)
            self.peak_bytes = max(self.peak_bytes, self.resident_bytes())
        connection.close()


def _ask(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
