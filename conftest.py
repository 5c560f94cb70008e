"""Settings every test shares."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the daemons do."""
    return "asyncio"
