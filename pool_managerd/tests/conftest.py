"""What the tests of pool_managerd share."""

from pathlib import Path

import pytest

from test_harness.supervised import SupervisorHarness


@pytest.fixture
def harness(tmp_path: Path) -> SupervisorHarness:
    """A state directory and a model file."""
    return SupervisorHarness(tmp_path)
