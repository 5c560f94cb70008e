"""Each rule on words is planted and seen, and its neighbours are left alone."""

from __future__ import annotations

import pytest

from ci.floors import check
from ci.idioms import is_secret_name
from ci.sources import Sources
from ci.tests.conftest import Plant


def found(plant: Plant, path: str, text: str) -> list[str]:
    return [str(finding) for finding in check(Sources(plant({path: text})))]


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "from random import choice",
        "import logging",
        "import structlog",
        "import asyncio",
        "import anyio.lowlevel",
        "import os.path",
        "import sqlite3",
        "import aiosqlite",
        "import aiohttp",
        "from starlette.requests import Request",
        "async def f() -> None: ...",
    ],
)
def test_domain_is_pure(plant: Plant, line: str) -> None:
    findings = found(plant, "pool_managerd/domain/leases.py", f"{line}\n")
    assert len(findings) == 1
    assert findings[0].startswith("pool_managerd/domain/leases.py:1: domain/ ")
    assert found(plant, "pool_managerd/supervisor.py", f"{line}\n") == findings
    assert found(plant, "pool_managerd/domain/leases.py", "from collections import deque\n") == []


def test_a_test_of_domain_may_do_what_it_needs(plant: Plant) -> None:
    assert found(plant, "orchestratord/tests/domain/test_queue.py", "import random\n") == []


@pytest.mark.parametrize(
    "line", ["x = os.environ['A']", "x = os.getenv('A')", "from os import environ"]
)
def test_the_environment_has_one_reader(plant: Plant, line: str) -> None:
    text = f"import os\n{line}\n"
    findings = found(plant, "contracts/service/app.py", text)
    assert len(findings) == 1
    assert findings[0].startswith("contracts/service/app.py:2: the environment is read in")
    plant({"contracts/service/app.py": ""})
    assert found(plant, "contracts/service/settings.py", text) == []
    assert found(plant, "contracts/tests/test_settings.py", text) == []
    assert found(plant, "test_harness/stack.py", text) == []


@pytest.mark.parametrize(
    "line",
    [
        "re.match(r'[a-z]+', x)",
        "re.match(r'^[a-z]+$', x)",
        "re.search(r'^[a-z]+$', x)",
        "ID.match(x)",
        "ID.search(x)",
    ],
)
def test_a_pattern_matches_the_whole_or_nothing(plant: Plant, line: str) -> None:
    text = f"import re\nID = re.compile(rb'^[a-z]+$')\n{line}\n"
    findings = found(plant, "worker_adapters/sse.py", text)
    assert len(findings) == 1
    assert findings[0].startswith("worker_adapters/sse.py:3: ")
    assert findings[0].endswith("use fullmatch")


@pytest.mark.parametrize(
    "line", ["re.fullmatch('a', x)", "re.search('a', x)", "ID.fullmatch(x)", "route.match(x)"]
)
def test_other_uses_of_patterns_are_fine(plant: Plant, line: str) -> None:
    text = f"import re\nID = re.compile('^a$')\n{line}\n"
    assert found(plant, "worker_adapters/sse.py", text) == []


def test_a_test_may_match_a_prefix_but_not_believe_in_dollar(plant: Plant) -> None:
    path = "worker_adapters/tests/test_sse.py"
    assert found(plant, path, "import re\nre.match('a', x)\n") == []
    assert len(found(plant, path, "import re\nre.match('a$', x)\n")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "token == given",
        "given != settings.api_token",
        "given in (secret, other)",
        "secret in accepted",
        "api_key == ''",
        "self.apiKey == given",
    ],
)
def test_a_secret_is_not_compared_with_an_operator(plant: Plant, line: str) -> None:
    findings = found(plant, "contracts/service/app.py", f"x = {line}\n")
    assert len(findings) == 1
    assert "use Secret.matches" in findings[0]


@pytest.mark.parametrize(
    "line",
    [
        "token == None",
        "token is None",
        "tokens_out == 3",
        "event == 'token'",
        "x.token == 0",
        "token in CONTROL",
    ],
)
def test_what_is_no_secret_may_be_compared(plant: Plant, line: str) -> None:
    assert found(plant, "contracts/service/app.py", f"x = {line}\n") == []
    assert found(plant, "contracts/tests/test_app.py", "assert token == given\n") == []


@pytest.mark.parametrize("name", ["token", "api_key", "clientSecret", "token_file", "bearer_token"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["tokens", "max_tokens", "first_token_ms", "token_index", "TOKEN", "TokenEvent", ""]
)
def test_names_of_text_tokens(name: str) -> None:
    assert not is_secret_name(name)


def test_a_digest_becomes_a_path_in_one_place(plant: Plant) -> None:
    line = 'x = digest.removeprefix("sha256:")\n'
    assert found(plant, "pool_managerd/models/cache.py", line) == []
    assert found(plant, "pool_managerd/models/second.py", 'x = name.removeprefix("a")\n') == []
    (finding,) = found(plant, "pool_managerd/models/second.py", line)
    assert "use digest_directory" in finding
