"""What the two open routes of a daemon say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from contracts.model import Contract


class Alive(Contract):
    """GET /healthz: the process answers."""

    status: Literal["alive"] = Field(default="alive", description="Always `alive`.")


class Ready(Contract):
    """GET /readyz: the daemon would accept work."""

    status: Literal["ready"] = Field(default="ready", description="Always `ready`.")
