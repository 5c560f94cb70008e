"""P-1 and P-2: an engine that dies again and again."""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise
from pathlib import Path

import httpx2
import psutil

from test_harness.chaos.figures import Figures, at_most, exactly, timely
from test_harness.chaos.rig import MODEL, POOL, fake_pool
from test_harness.chaos.supervision.watch import health, times_of
from test_harness.chaos.waits import until
from test_harness.stack import Stack, running_stack
from test_harness.supervised import fake_command

BASE_MS, CAP_MS = 200, 1_000
JITTER = 0.25
START_S = 1.5
"""What a death at the start and its clearing away may add to a delay."""
PATIENCE_S = 60.0
CRASH_LOOP_DEATHS = 1_000


def dies_at_once(root: Path, seed: int, full: bool) -> Figures:
    """P-1: the delays between starts, over 6 deaths."""
    restart = {"base_ms": BASE_MS, "cap_ms": CAP_MS, "intensity": 1_000}
    pool = fake_pool(root, "--fault", "die-at-start", restart=restart)
    deaths = 6
    with running_stack(root, [pool]):
        until(lambda: len(times_of(root, "replica.starting")) > deaths, PATIENCE_S, "it is tried")
    starts = times_of(root, "replica.starting")[: deaths + 1]
    delays = [1_000 * (later - earlier) for earlier, later in pairwise(starts)]
    wanted = [min(CAP_MS, BASE_MS * 2**n) for n in range(deaths)]
    early = sum(d < (1 - JITTER) * w for d, w in zip(delays, wanted, strict=True))
    late = sum(
        d > min(CAP_MS, (1 + JITTER) * w) + 1_000 * START_S
        for d, w in zip(delays, wanted, strict=True)
    )
    return {"deaths": deaths, "starts too early": exactly(early, 0), "too late": exactly(late, 0)}


def breaker_opens(root: Path, seed: int, full: bool) -> Figures:
    """P-2: five deaths, no start, one try, and then it serves."""
    switch = root / "works"
    code = (
        "import os,sys;argv=sys.argv[2:];"
        "fault=[] if os.path.exists(sys.argv[1]) else ['--fault','die-at-start'];"
        "os.execv(argv[0],[*argv,*fault])"
    )
    restart = {"base_ms": 20, "cap_ms": 1_500, "intensity": 5}
    pool = fake_pool(root, restart=restart)
    command = [sys.executable, "-c", code, str(switch), *fake_command()]
    pool["provisioning"] = {"mode": "command", "command": command}
    with running_stack(root, [pool]) as stack:
        until(lambda: health(stack)["breaker"] == "open", PATIENCE_S, "the breaker opens")
        starts = len(times_of(root, "replica.starting"))
        status, code_of = _post(stack)
        until(lambda: health(stack)["breaker"] != "open", PATIENCE_S, "one try is made")
        tries = len(times_of(root, "replica.starting")) - starts
        until(lambda: health(stack)["breaker"] == "open", PATIENCE_S, "it fails too")
        switch.touch()
        until(lambda: health(stack)["ready"], PATIENCE_S, "the next try serves")
        closed = health(stack)["breaker"] == "closed"
    return {
        "deaths before it opened": exactly(starts, 5),
        "status of a post meanwhile": exactly(status, 503),
        "code POOL_UNAVAILABLE": exactly(code_of == "POOL_UNAVAILABLE", True),
        "half-open tries": exactly(tries, 1),
        "closed by serving": exactly(closed, True),
    }


def crash_loop(root: Path, seed: int, full: bool) -> Figures:
    """A long crash loop costs no more per death at its end than at its beginning."""
    deaths = CRASH_LOOP_DEATHS if full else 60
    tenth = deaths // 10
    restart = {"base_ms": 1, "cap_ms": 1, "intensity": 1_000, "window_ms": 1}
    pool = fake_pool(root, restart=restart)
    pool["provisioning"] = {"mode": "command", "command": ["/bin/false"]}
    costs: list[float] = []
    with running_stack(root, [pool]) as stack:
        daemon = stack.daemons["pool_managerd"].process.pid
        until(lambda: health(stack)["restarts"] > 0, PATIENCE_S, "it dies")
        for _ in range(10):
            before, cpu = health(stack)["restarts"], _cpu_s(daemon)
            until(
                lambda before=before: health(stack)["restarts"] >= before + tenth,  # type: ignore[misc]
                PATIENCE_S * 10,
                "it dies on",
            )
            died = health(stack)["restarts"] - before
            costs.append((_cpu_s(daemon) - cpu) / died)
    ratio = costs[-1] / costs[0]
    return {
        "deaths": deaths,
        "CPU per death at first, ms": 1_000 * costs[0],
        "CPU per death at last, ms": 1_000 * costs[-1],
        "last to first": at_most(ratio, 1.5 if full else 3.0),
    }


def back_again(root: Path, seed: int, full: bool) -> Figures:
    """From a crash to serving again: the base delay, the start, and half a second."""
    pool = fake_pool(root, restart={"base_ms": 500})
    with running_stack(root, [pool]) as stack:
        stack.wait_serving(POOL)
        starting, serving = (times_of(root, f"replica.{e}") for e in ("starting", "serving"))
        start_s = serving[0] - starting[0]
        [pid] = stack.pids_of_replicas(POOL)
        os.kill(pid, signal.SIGKILL)
        until(lambda: len(times_of(root, "replica.serving")) == 2, PATIENCE_S, "it serves again")
        failed, served = times_of(root, "replica.failed")[0], times_of(root, "replica.serving")[1]
    return {
        "crashes": 1,
        "start, s": start_s,
        "beyond base delay and start, s": timely(served - failed - 0.625 - start_s, 0.5, full),
    }


def _post(stack: Stack) -> tuple[int, str]:
    with stack.client() as client:
        # Until orchestratord has seen the snapshot, a task is queued.
        def refused() -> httpx2.Response | None:
            answer = client.post(
                "/v1/tasks",
                json={"workload": "completion", "model": MODEL, "prompt": "a", "max_tokens": 1},
            )
            return answer if answer.status_code == 503 else None

        until(lambda: refused() is not None, 10.0, "a post is refused")
        answer = refused()
        assert answer is not None
        return answer.status_code, str(answer.json()["code"])


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
