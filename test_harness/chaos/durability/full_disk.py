"""A disk without room: what is new is refused, what runs goes on, and it heals by itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from test_harness.chaos.durability.following import Following
from test_harness.chaos.durability.history import wait_ended
from test_harness.chaos.figures import Figures, at_least, exactly, timely
from test_harness.chaos.rig import fake_pool, served
from test_harness.chaos.scenario import Missing
from test_harness.stack import Stack
from test_harness.task_client import TaskClient

DISK_BYTES = 8 * 1024 * 1024
MOUNT_S = 10.0
STREAMS = 3
TOKEN_MS = 20
TOKENS = 150
REFUSALS = 3
REFUSED_WITHIN_S = 5.0
HEALED_WITHIN_S = 5.0
ENDED_WITHIN_S = 60.0
LOOK_EVERY_S = 0.05
NO_ROOM = frozenset({503, 507})
PATHS = ("/healthz", "/readyz", "/v1/tasks", "/v1/pools/chat/health", "/metrics")


def full_disk(root: Path, seed: int, full: bool) -> Figures:
    """The disk of the state fills up under running streams, and is freed again."""
    missing = why_not(root / "tried")
    if missing is not None:
        raise Missing(missing)
    rounds, accepted = 10 if full else 1, [""] * 0
    healed: list[float] = []
    pool = fake_pool(root, "--token-ms", str(TOKEN_MS), slots=STREAMS)
    with _mounted(root / "state") as disk, served(root, pool) as stack, TaskClient(stack) as client:
        for _ in range(rounds):
            running = [Following(stack, client.accept(max_tokens=TOKENS)) for _ in range(STREAMS)]
            accepted += [reader.task_id for reader in running]
            for reader in running:
                reader.wait_token()
            with _filled(disk):
                refusals = _refusals(client)
                _read_everything(stack, accepted)
                for reader in running:
                    reader.whole_and_well(ENDED_WITHIN_S)
                states = [client.task(reader.task_id)["state"] for reader in running]
                assert states == ["succeeded"] * STREAMS, states
                refusals += _refusals(client)
            task_id, healed_s = _accepted_again(client)
            healed.append(healed_s)
            accepted.append(task_id)
            wait_ended(stack, [task_id], ENDED_WITHIN_S)
        assert stack.daemons["orchestratord"].stop() == 0
        shutil.copy(disk / "orchestratord.sqlite", root / "orchestratord.sqlite")
    return {
        "times it was full": rounds,
        "posts refused": at_least(len(refusals), 2 * REFUSALS),
        "of these otherwise than 503 and 507": exactly(
            sum(status not in NO_ROOM for status in refusals), 0
        ),
        "streams that ended well": rounds * STREAMS,
        "accepted again after, s": timely(max(healed), HEALED_WITHIN_S, full),
    }


def why_not(directory: Path) -> str | None:
    """What is missing to mount a small disk; None where nothing is."""
    if os.geteuid() != 0:
        return "a small disk can be mounted by root only"
    try:
        with _mounted(directory):
            return None
    except (OSError, subprocess.SubprocessError) as error:
        return f"no tmpfs can be mounted: {error}"


@contextlib.contextmanager
def _mounted(directory: Path) -> Iterator[Path]:
    """A disk of its own at a directory that is not there yet."""
    directory.mkdir(mode=0o700)
    options = f"size={DISK_BYTES},mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    subprocess.run(mount, capture_output=True, timeout=MOUNT_S, check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], timeout=MOUNT_S, check=True)


@contextlib.contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """No block of the disk is free when the block begins."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
    finally:
        filler.unlink()


def _refusals(client: TaskClient) -> list[int]:
    """Post until so many were refused in a row; their statuses."""
    statuses: list[int] = []
    deadline = time.monotonic() + REFUSED_WITHIN_S
    while len(statuses) < REFUSALS:
        assert time.monotonic() < deadline, f"a full disk goes on taking tasks: {statuses}"
        status = client.post(max_tokens=1).status_code
        statuses = [] if status == 202 else [*statuses, status]
    return statuses


def _read_everything(stack: Stack, task_ids: list[str]) -> None:
    with stack.client() as client:
        for path in (*PATHS, *(f"/v1/tasks/{task_id}" for task_id in task_ids)):
            answer = client.get(path)
            assert answer.status_code == 200, (path, answer.text)


def _accepted_again(client: TaskClient) -> tuple[str, float]:
    """The first task accepted from now on, and after how many seconds."""
    began = time.monotonic()
    while (answer := client.post(max_tokens=1)).status_code != 202:
        assert time.monotonic() - began < ENDED_WITHIN_S, answer.text
        time.sleep(LOOK_EVERY_S)
    return str(answer.json()["task_id"]), time.monotonic() - began
