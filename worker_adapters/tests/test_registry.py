"""Which engines are served."""

from __future__ import annotations

import pytest

from worker_adapters.base import EngineClient, EngineLauncher
from worker_adapters.registry import ENGINES, new_client
from worker_adapters.transport import EngineTransport


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_has_launchers_and_a_client(name: str) -> None:
    engine = ENGINES[name]
    assert engine.name == name
    assert all(isinstance(launcher, EngineLauncher) for launcher in engine.launchers.values())
    assert isinstance(new_client(name, EngineTransport(), "http://h", None), EngineClient)


def test_an_engine_that_is_not_served_is_not_there() -> None:
    with pytest.raises(KeyError):
        new_client("another", EngineTransport(), "http://h", None)
