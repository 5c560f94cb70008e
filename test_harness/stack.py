"""Both daemons as real processes over a state directory of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2

T = TypeVar("T")
DaemonName = Literal["orchestratord", "pool_managerd"]
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 60.0
POLL_S = 0.02


class Daemon:
    """One daemon process; its stderr goes to a file beside its state."""

    def __init__(
        self, name: DaemonName, root: Path, environment: dict[str, str], *options: str
    ) -> None:
        self.name = name
        self.log = root / f"{name}.log"
        self._run_file = root / "state" / "run" / f"{name}.json"
        self.started_at = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", name, "--config", str(root / "config.yaml"), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        """Where it listens; waits for the run file of this very process."""
        run = wait_for(self._run, f"{self.name} writes its run file", alive=self)
        return str(run["url"])

    def wait_ready(self) -> float:
        """Wait for 200 from /readyz; seconds since the process was started."""
        with httpx2.Client(base_url=self.url) as client:
            wait_for(
                lambda: client.get("/readyz").status_code == 200,
                f"{self.name} is ready",
                alive=self,
            )
        return time.monotonic() - self.started_at

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_DEADLINE_S)

    def logged(self) -> str:
        """Everything it wrote."""
        return self.log.read_text(errors="replace")

    def _run(self) -> dict[str, Any] | None:
        try:
            run: dict[str, Any] = json.loads(self._run_file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return run if run["pid"] == self.process.pid else None


class Stack:
    """A configuration, and the daemons that run on it."""

    def __init__(self, root: Path, pools: list[dict[str, Any]], **sections: Any) -> None:
        self.root = root
        self.state_dir = root / "state"
        self.config_path = root / "config.yaml"
        self.config = {
            "state_dir": str(self.state_dir),
            "orchestratord": {"port": 0},
            "pool_managerd": {"port": 0},
            "gpus": {"source": "none"},
            "pools": pools,
        } | sections
        self.daemons: dict[str, Daemon] = {}
        self.configure()

    def configure(self, **sections: Any) -> None:
        """Write the configuration, with these sections in the place of the present ones."""
        self.config |= sections
        self.config_path.write_text(json.dumps(self.config))  # JSON is YAML

    def start(self, name: DaemonName, *options: str) -> Daemon:
        """Start one daemon, again if it ran before."""
        daemon = self.daemons[name] = Daemon(name, self.root, child_environment(), *options)
        return daemon

    @property
    def token(self) -> str:
        """The API token of this state directory."""
        return (self.state_dir / "token").read_text().strip()

    @property
    def url(self) -> str:
        """Where orchestratord listens."""
        return self.daemons["orchestratord"].url

    @property
    def headers(self) -> dict[str, str]:
        """What every call must carry."""
        return {"Authorization": f"Bearer {self.token}"}

    def client(self, name: DaemonName = "orchestratord") -> httpx2.Client:
        """An authenticated client of one daemon."""
        return httpx2.Client(
            base_url=self.daemons[name].url, headers=self.headers, timeout=30.0, trust_env=False
        )

    def wait_serving(self, pool_id: str, replicas: int = 1) -> None:
        """Wait until orchestratord knows of so many ready replicas of a pool."""

        def serving() -> bool:
            health = client.get(f"/v1/pools/{pool_id}/health").json()
            states = [replica["state"] for replica in health["replicas"]]
            return states.count("ready") >= replicas

        with self.client() as client:
            wait_for(serving, f"{pool_id} has {replicas} ready replicas")

    def pids_of_replicas(self, pool_id: str) -> list[int]:
        """Process group leaders of a pool's replicas, in order."""
        with self.client() as client:
            health = client.get(f"/v1/pools/{pool_id}/health").json()
        return [replica["pid"] for replica in health["replicas"]]

    def stop(self) -> None:
        """Stop what still runs, orchestratord first; kills what does not stop."""
        for name in ("orchestratord", "pool_managerd"):
            daemon = self.daemons.get(name)
            if daemon is None:
                continue
            try:
                daemon.stop()
            except subprocess.TimeoutExpired:
                daemon.stop(signal.SIGKILL)


@contextlib.contextmanager
def running_stack(root: Path, pools: list[dict[str, Any]], **sections: Any) -> Iterator[Stack]:
    """Both daemons, started and stopped around the block."""
    stack = Stack(root, pools, **sections)
    try:
        stack.start("pool_managerd")
        stack.start("orchestratord").wait_ready()
        yield stack
    finally:
        stack.stop()


def child_environment() -> dict[str, str]:
    """This environment without anything that configures the product."""
    return {key: value for key, value in os.environ.items() if not key.startswith("LLORCH_")}


def wait_for(look: Callable[[], T | None], what: str, alive: Daemon | None = None) -> T:
    """Look until something true is seen; names what was waited for when it never is."""
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        if alive is not None and alive.process.poll() is not None:
            raise AssertionError(
                f"{alive.name} ended with {alive.process.returncode} before {what}:\n"
                f"{alive.logged()[-4000:]}"
            )
        time.sleep(POLL_S)
    raise AssertionError(f"waited {START_DEADLINE_S:.0f} s in vain: {what}")
