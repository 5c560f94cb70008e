"""Which instance, and which token: the order in which places are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.service.run_files import RunFile
from llama_orch.connection import Connection, discover
from llama_orch.failures import Failed, UsageMistake
from llama_orch.tests.scripted_server import TOKEN


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "LLORCH_URL", "LLORCH_API_TOKEN", "LLORCH_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def token_of(connection: Connection) -> str | None:
    return None if connection.token is None else connection.token.reveal()


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_with_nothing_said_it_is_the_default_address_and_the_state_token() -> None:
    """LO-CMD-013."""
    found = discover(None, None)
    assert (found.url, token_of(found)) == ("http://127.0.0.1:8700", TOKEN)


def test_the_run_file_says_where_the_running_one_listens(home: Path) -> None:
    """LO-CMD-013."""
    RunFile.write(home / ".local/state/llama-orch", "orchestratord", "http://127.0.0.1:45678")
    assert discover(None, None).url == "http://127.0.0.1:45678"


def test_the_state_directory_of_the_configuration_is_asked(home: Path) -> None:
    state = home / "elsewhere"
    state.mkdir(mode=0o700)
    RunFile.write(state, "orchestratord", "http://127.0.0.1:45679")
    private(state / "token", "elsewhere-token")
    config = private(home / "c.yaml", f"state_dir: {state}\npools: []\n")
    found = discover(None, None, config)
    assert (found.url, token_of(found)) == ("http://127.0.0.1:45679", "elsewhere-token")


def test_the_environment_goes_before_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """LO-CMD-013."""
    monkeypatch.setenv("LLORCH_URL", "http://there:1/")
    monkeypatch.setenv("LLORCH_API_TOKEN", "from-the-environment")
    found = discover(None, None)
    assert (found.url, token_of(found)) == ("http://there:1", "from-the-environment")


def test_the_command_line_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """LO-CMD-013."""
    monkeypatch.setenv("LLORCH_URL", "http://there:1")
    monkeypatch.setenv("LLORCH_API_TOKEN", "from-the-environment")
    found = discover("http://here:2", private(tmp_path / "t", "from-the-file\n"))
    assert (found.url, token_of(found)) == ("http://here:2", "from-the-file")


def test_url_and_token_file_need_no_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLORCH_CONFIG", "/nonexistent/config.yaml")
    assert discover("http://here:2", private(tmp_path / "t", "x")).url == "http://here:2"


def test_a_configuration_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no configuration here"):
        discover(None, None, tmp_path / "none.yaml")


def test_a_missing_token_is_not_an_error_until_a_server_wants_one(home: Path) -> None:
    (home / ".local/state/llama-orch/token").unlink()
    found = discover(None, None)
    assert found.token is None
    assert found.token_source.endswith("/token")


def test_a_run_file_that_is_garbage_is_as_good_as_none(home: Path) -> None:
    path = home / ".local/state/llama-orch/run"
    path.mkdir()
    (path / "orchestratord.json").write_bytes(b"\xff{")
    assert discover(None, None).url == "http://127.0.0.1:8700"


@pytest.mark.parametrize("text", ["", "two words", "caf\u00e9", "a\nb", "x" * 5000])
def test_a_token_file_that_holds_no_token_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageMistake, match="--token-file"):
        discover(None, private(tmp_path / "t", text))


def test_the_token_is_not_in_the_repr(tmp_path: Path) -> None:
    """LO-SYS-032."""
    assert "canary" not in repr(discover(None, private(tmp_path / "t", "canary")))
