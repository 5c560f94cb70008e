"""Stand-ins that serve the whole session, and clients of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from test_harness.conformance.engines import DIALECTS, DialectUnderTest
from test_harness.conformance.fake_process import API_KEY, FakeProcess, fake_process
from worker_adapters.base import EngineClient
from worker_adapters.registry import new_client
from worker_adapters.transport import EngineTransport


@pytest.fixture(scope="session")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FakeProcess]]:
    """One process per dialect; faults of a stream are asked for in its prompt."""
    log = tmp_path_factory.mktemp("attempts")
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                fake_process(name, log / name, "--slots", "4", "--tokens", "2000")
            )
            for name in DIALECTS
        }


@pytest.fixture(params=sorted(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> DialectUnderTest:
    return DIALECTS[request.param]


@pytest.fixture
def fake(fakes: dict[str, FakeProcess], dialect: DialectUnderTest) -> FakeProcess:
    return fakes[dialect.name]


@pytest.fixture
async def transport(anyio_backend: str) -> AsyncIterator[EngineTransport]:
    async with EngineTransport() as opened:
        yield opened


@pytest.fixture
def client(
    transport: EngineTransport, fake: FakeProcess, dialect: DialectUnderTest
) -> EngineClient:
    return new_client(dialect.name, transport, fake.base_url, API_KEY)
