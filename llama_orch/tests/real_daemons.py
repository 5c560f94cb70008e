"""What is looked at around commands that start real daemons."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from llama_orch.tests.scripted_server import command_environment


class Command:
    """A `llama-orch` that goes on in the background, marked so that its children are found."""

    def __init__(self, home: Path, *arguments: str, **environ: str) -> None:
        # TMPDIR is handed down to every child, engines included: it marks them as ours.
        self.temporary = home / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.environment = command_environment(home) | {"TMPDIR": str(self.temporary)} | environ
        self._written = Path(tempfile.mkdtemp(dir=home))
        with (self._written / "out").open("w") as out, (self._written / "err").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llama_orch", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment,
            )

    def wait(self, seconds: float = 120) -> int:
        return self.process.wait(seconds)

    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def out(self) -> str:
        return (self._written / "out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self._written / "err").read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        """Every live process that was started, however far down, by this command."""
        return [each for each in psutil.process_iter() if self._is_ours(each)]

    def close(self) -> None:
        """End whatever a failed test left."""
        for each in self.children():
            each.kill()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return (
                process.pid != self.process.pid
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("TMPDIR") == str(self.temporary)
            )
        except psutil.Error:
            return False
