"""Which daemon to talk to, orchestratord nearly always, and with which token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from contracts.config import Config
from contracts.service.run_files import RunFile, RunInfo
from contracts.service.settings import (
    ConfigError,
    Secret,
    client_environment,
    read_config,
    read_secret_file,
    state_dir_of,
)
from llama_orch.failures import Failed, UsageMistake

ORCHESTRATORD = "orchestratord"
POOL_MANAGERD = "pool_managerd"


@dataclass(frozen=True)
class Connection:
    """An address and a token; `token_source` says where the token was looked for."""

    url: str
    token: Secret | None
    token_source: str
    daemon: str = "orchestratord"


def discover_pool_managerd(
    url: str | None, token_file: Path | None, config_path: Path | None = None
) -> Connection:
    """Find the running pool_managerd: as `discover`, but for LLORCH_URL, which is not its.

    Raises:
        UsageMistake: a file named on the command line cannot be used.
        Failed: the environment or the configuration cannot be used.
    """
    try:
        if url is None:
            config, _ = read_config(config_path, missing_ok=True)
            url = _running_or_configured(config, POOL_MANAGERD)
    except (ConfigError, OSError) as error:
        raise Failed(str(error)) from None
    return replace(discover(url, token_file, config_path), daemon=POOL_MANAGERD)


def discover(
    url: str | None, token_file: Path | None, config_path: Path | None = None
) -> Connection:
    """Find the running instance.

    The URL: `url`, else LLORCH_URL, else the run file in the configured state
    directory, else the configured address.  The token: `token_file`, else
    LLORCH_API_TOKEN, else `auth.token_file`, else the state directory's.

    Raises:
        UsageMistake: a file named on the command line cannot be used.
        Failed: the environment or the configuration cannot be used.
    """
    try:
        environment = client_environment()
        url = url or environment.url
        token, source = _named_token(token_file), str(token_file)
        if token is None:
            token, source = environment.token, "LLORCH_API_TOKEN"
        if url is None or token is None:
            config, _ = read_config(config_path, missing_ok=True)
            url = url or running_url(config)
            if token is None:
                path = configured_token_file(config)
                token, source = read_secret_file(path) if path.exists() else None, str(path)
    except (ConfigError, OSError) as error:
        raise Failed(str(error)) from None
    return Connection(url.rstrip("/"), token, source)


def configured_token_file(config: Config) -> Path:
    """Where the token lies when the environment does not carry it."""
    if config.auth.token_file is not None:
        return Path(config.auth.token_file).expanduser()
    return state_dir_of(config) / "token"


def running_url(config: Config) -> str:
    """Where the running instance listens, else where the configuration would put it."""
    return _running_or_configured(config, ORCHESTRATORD)


def _running_or_configured(config: Config, name: str) -> str:
    running = running_daemon(state_dir_of(config), name)
    if running is not None:
        return running.url
    listen, port = config.orchestratord, 8700
    if name == POOL_MANAGERD:
        listen, port = config.pool_managerd, 8701
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"http://{host}:{listen.port or port}"


def running_daemon(state_dir: Path, name: str) -> RunInfo | None:
    """The run file of daemon `name`, None where there is none that can be read."""
    try:
        return RunFile.read(state_dir, name)
    except OSError:
        return None


def _named_token(path: Path | None) -> Secret | None:
    try:
        return None if path is None else read_secret_file(path)
    except ConfigError as error:
        raise UsageMistake(f"--token-file: {error}") from None
