"""What a process is told: the one reader of the environment and of the config.

Daemons call `load_settings`, which also makes the state directory and the token.
`config check` and the command call `read_config` and `client_environment`, which
write nothing.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from contracts.config import Config, External, Listen, ModelKind
from contracts.service.api_token import (
    EXPOSED_TOKEN_CHARACTERS_MIN,
    Secret,
    TokenError,
    checked_token,
    made_token,
    read_token_file,
)
from contracts.service.config_source import ConfigError, default_config_path, expanded, load_config
from contracts.service.sampler_profiles import load_sampler_profiles

__all__ = [
    "ClientEnvironment",
    "ConfigError",
    "Secret",
    "ServiceManager",
    "Settings",
    "check_files",
    "child_environment",
    "client_environment",
    "engine_api_key",
    "is_loopback",
    "load_sampler_profiles",
    "load_settings",
    "model_file",
    "model_problem",
    "read_config",
    "read_secret_file",
    "state_dir_of",
    "tool_environment",
]

WATCHDOG_DIGITS_MAX = 15

_CHILD_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("LD_LIBRARY_PATH", "VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("CUDA_HOME", "CUDA_PATH", "CUDA_DEVICE_ORDER", "CUDA_CACHE_PATH"),
    }
)
_CHILD_PREFIXES = ("LC_", "XDG_", "NVML_")
_TOOL_NAMES = frozenset(
    {
        *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH"),
        *("DOCKER_TLS_VERIFY", "CONTAINER_HOST", "CONTAINERS_CONF", "DBUS_SESSION_BUS_ADDRESS"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    }
)
"""Where a container runtime is, and how to get out of this network."""


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """What systemd put into our environment; all None where it did not start us."""

    notify_socket: str | None = None
    """A path, or `@` and an abstract name."""
    watchdog_us: int | None = None
    """We are restarted when we say nothing for so many microseconds."""
    watchdog_pid: int | None = None
    """The process that is watched; None: whoever reads it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a daemon was told, checked."""

    config: Config
    config_path: Path
    state_dir: Path
    token: Secret
    test_mode: bool = False
    failpoints: str | None = None
    leave_replicas: bool = False
    """Whether a stop of pool_managerd leaves its engines running."""
    service_manager: ServiceManager = field(default_factory=ServiceManager)


@dataclass(frozen=True, slots=True)
class ClientEnvironment:
    """What the command finds in its environment."""

    url: str | None
    token: Secret | None
    config_path: Path


def load_settings(
    config_path: Path | None,
    *,
    test_mode: bool = False,
    environ: Mapping[str, str] | None = None,
    require_token: bool = True,
) -> Settings:
    """Read and check everything; make the state directory and the token.

    With `require_token` false a missing token is not made, and matches nothing.

    Raises:
        ConfigError: one line naming the key or file, and the remedy.
    """
    env = os.environ if environ is None else environ
    config, path = read_config(config_path, env)
    failpoints = env.get("LLORCH_FAILPOINTS") or None
    if failpoints and not test_mode:
        raise ConfigError("LLORCH_FAILPOINTS: honoured with --test-mode only; unset it")
    _check_exposure(config, env)
    state_dir = _private_dir(state_dir_of(config, env))
    try:
        token = _token(config, env, state_dir, make=require_token)
    except TokenError as error:
        raise ConfigError(str(error)) from error
    _check_exposed_token(config, token)
    return Settings(
        config,
        path,
        state_dir,
        token,
        test_mode,
        failpoints,
        service_manager=service_manager(env),
    )


def service_manager(environ: Mapping[str, str]) -> ServiceManager:
    """What systemd asks for, by sd_notify(3) and sd_watchdog_enabled(3).

    Raises:
        ConfigError: a variable is not what systemd writes.
    """
    where = environ.get("NOTIFY_SOCKET") or None
    if where is not None and (where[0] not in "/@" or len(where) < 2):
        raise ConfigError("NOTIFY_SOCKET: neither a path nor an abstract name; unset it")
    return ServiceManager(
        where, _positive(environ, "WATCHDOG_USEC"), _positive(environ, "WATCHDOG_PID")
    )


def _positive(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if len(text) > WATCHDOG_DIGITS_MAX or not text.isascii() or not text.isdecimal():
        raise ConfigError(f"{name}: not a number as systemd writes it; unset it")
    return int(text) or None


def read_config(
    config_path: Path | None,
    environ: Mapping[str, str] | None = None,
    *,
    missing_ok: bool = False,
) -> tuple[Config, Path]:
    """The configuration and where it was found; nothing is written.

    With `missing_ok`, no file at the default place reads as an empty one.

    Raises:
        ConfigError: one line naming the key or file, and the remedy.
    """
    env = os.environ if environ is None else environ
    path = default_config_path(env) if config_path is None else config_path.absolute()
    by_default = config_path is None and not env.get("LLORCH_CONFIG")
    return load_config(path, env, missing_ok=missing_ok and by_default), path


def client_environment(environ: Mapping[str, str] | None = None) -> ClientEnvironment:
    """What the command needs before it has a configuration.

    Raises:
        ConfigError: LLORCH_API_TOKEN is no token.
    """
    env = os.environ if environ is None else environ
    try:
        token = _environment_token(env)
    except TokenError as error:
        raise ConfigError(str(error)) from error
    return ClientEnvironment(env.get("LLORCH_URL") or None, token, default_config_path(env))


def read_secret_file(path: str | Path, environ: Mapping[str, str] | None = None) -> Secret:
    """The token or API key in a file only its owner can read.

    Raises:
        ConfigError: missing, readable by others, or not a token.
    """
    try:
        return read_token_file(expanded(str(path), os.environ if environ is None else environ))
    except TokenError as error:
        raise ConfigError(str(error)) from error


def state_dir_of(config: Config, environ: Mapping[str, str] | None = None) -> Path:
    """`state_dir`, absolute."""
    return expanded(config.state_dir, os.environ if environ is None else environ)


def model_file(ref: str, environ: Mapping[str, str] | None = None) -> Path | None:
    """The path in a `file:` ref, absolute; None for any other scheme."""
    scheme, _, rest = ref.partition(":")
    if scheme != "file":
        return None
    if rest.startswith("//"):
        rest = "/" + rest.lstrip("/")
    return expanded(rest, os.environ if environ is None else environ)


def model_problem(path: Path, kind: ModelKind) -> str | None:
    """Why there is no model of this kind at `path`, in a few words; None: there is."""
    if kind == "directory":
        if path.is_dir():
            return None
        if path.suffix.lower() == ".gguf":
            return "this engine takes a directory, and GGUF files are for `llamacpp`"
        return "not a directory" if path.exists() else "no such directory"
    if path.is_file() or (kind == "any" and path.is_dir()):
        return None
    return "not a file" if path.exists() else "no such file"


def check_files(config: Config, environ: Mapping[str, str] | None = None) -> None:
    """Look for every model file; `config check` does, a daemon starts without.

    Raises:
        ConfigError: naming the pool's key and the file.
    """
    for index, pool in enumerate(config.pools):
        path = model_file(pool.model.ref, environ)
        if path is None or isinstance(pool.provisioning, External):
            continue
        what = model_problem(path, pool.model_kind)
        if what is not None:
            raise ConfigError(
                f"pools[{index}].model.ref: {what}: {path}; put the model there, or change the ref"
            )


def child_environment(
    extra: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of an engine: an allow-list, and `extra`; no token, no device mask."""
    env = os.environ if environ is None else environ
    kept = {
        name: value
        for name, value in env.items()
        if name in _CHILD_NAMES or name.startswith(_CHILD_PREFIXES)
    }
    return {**kept, **(extra or {})}


def tool_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a container runtime or an installer needs beside what an engine gets."""
    env = os.environ if environ is None else environ
    return {name: value for name, value in env.items() if name in _TOOL_NAMES}


def engine_api_key(environ: Mapping[str, str] | None = None) -> Secret | None:
    """The key an engine process of ours was launched with, for that process to read."""
    key = (os.environ if environ is None else environ).get("LLAMA_API_KEY")
    return Secret(key) if key else None


def is_loopback(host: str) -> bool:
    """Whether `host` is reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _exposed(config: Config) -> list[tuple[str, Listen]]:
    listeners = (("orchestratord", config.orchestratord), ("pool_managerd", config.pool_managerd))
    return [(key, listen) for key, listen in listeners if not is_loopback(listen.host)]


def _check_exposure(config: Config, env: Mapping[str, str]) -> None:
    for key, listen in _exposed(config):
        if config.auth.tls.cert is None:
            raise ConfigError(
                f"{key}.host: {listen.host} is not loopback; set auth.tls.cert and auth.tls.key,"
                " or use 127.0.0.1"
            )
        if config.auth.token_file is None and not env.get("LLORCH_API_TOKEN"):
            raise ConfigError(
                f"{key}.host: {listen.host} is not loopback; set auth.token_file or"
                " LLORCH_API_TOKEN, or use 127.0.0.1"
            )


def _check_exposed_token(config: Config, token: Secret) -> None:
    for key, listen in _exposed(config):
        if len(token.reveal()) < EXPOSED_TOKEN_CHARACTERS_MIN:
            raise ConfigError(
                f"{key}.host: {listen.host} is not loopback; use a token of at least"
                f" {EXPOSED_TOKEN_CHARACTERS_MIN} characters"
            )


def _token(config: Config, env: Mapping[str, str], state_dir: Path, *, make: bool) -> Secret:
    if config.auth.token_file is not None:
        return read_token_file(expanded(config.auth.token_file, env))
    given = _environment_token(env)
    if given is not None:
        return given
    path = state_dir / "token"
    return made_token(path) if make or path.exists() else Secret("")


def _environment_token(env: Mapping[str, str]) -> Secret | None:
    text = env.get("LLORCH_API_TOKEN")
    return checked_token(text, "LLORCH_API_TOKEN") if text else None


def _private_dir(path: Path) -> Path:
    """`path` as a directory of ours alone; its parents are made as usual."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"state_dir: {path}: {error.strerror}") from error
    if found.st_uid != os.getuid():
        raise ConfigError(f"state_dir: {path} belongs to another user; choose another one")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"state_dir: others can read {path}; chmod 700 {path}")
    return path
