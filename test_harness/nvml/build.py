"""Builds the simulated driver library."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_CARD_KEY = re.compile(r"^c([0-9])_")
SOURCE = Path(__file__).with_name("shim.c")


def compiler() -> str | None:
    """A C compiler, if this machine has one."""
    return shutil.which("gcc") or shutil.which("cc")


class SimulatedDriver:
    """A `libnvidia-ml.so.1` in `directory`, for LD_LIBRARY_PATH, and the cards it shows."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._state = directory / "cards"
        cc = compiler()
        assert cc is not None
        flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1"]
        library = directory / "libnvidia-ml.so.1"
        subprocess.run(
            [
                *(cc, *flags, f'-DSTATE_FILE="{self._state}"', "-Wl,-soname,libnvidia-ml.so.1"),
                *("-o", str(library), str(SOURCE)),
            ],
            check=True,
        )

    def show(self, **state: int) -> None:
        """Set the state; the key `N.used_mib` of the library is `cN_used_mib` here."""
        lines = [f"{_key(key)} {value}\n" for key, value in state.items()]
        fresh = self._state.with_suffix(".new")
        fresh.write_text("".join(lines))
        fresh.rename(self._state)


def _key(name: str) -> str:
    return _CARD_KEY.sub(r"\1.", name)
