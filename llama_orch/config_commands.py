"""`config init`, `check`, `schema` and `show`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
import yaml

from contracts.config import Config
from contracts.service.settings import ConfigError, client_environment, read_config
from llama_orch.config_check import problems
from llama_orch.failures import ExitCode, Failed
from llama_orch.options import ConfigFile, Json
from llama_orch.output import Output
from llama_orch.starter_config import STARTER_CONFIG

config_app = typer.Typer(
    name="config", help="Make, check and show the configuration.", no_args_is_help=True
)


@config_app.command("init")
def init(
    force: Annotated[bool, typer.Option("--force", help="Overwrite the one there.")] = False,
    json_mode: Json = False,
    config: ConfigFile = None,
) -> int:
    """Write a commented starter configuration, readable by you alone."""
    path = (config or client_environment().config_path).absolute()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(path, STARTER_CONFIG, force=force)
    except FileExistsError:
        raise Failed(f"{path} exists; --force overwrites it") from None
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}") from None
    output = Output(json_mode=json_mode)
    if json_mode:
        output.emit({"config": str(path)})
    else:
        output.write(f"{path}\n")
        output.note("put your model's path into it, then: llama-orch config check; llama-orch up")
    return ExitCode.OK


@config_app.command("check")
def check(json_mode: Json = False, config: ConfigFile = None) -> int:
    """Say what is wrong, one line per problem; exit 1 where there is one.

    Looks for model files, programs and free ports besides the keys. The daemons
    themselves exit with 78 on a configuration they cannot use.
    """
    try:
        parsed, path = read_config(config)
        found = list(problems(parsed))
    except ConfigError as error:
        path = config or client_environment().config_path
        found = [str(error)]
    output = Output(json_mode=json_mode)
    if json_mode:
        output.emit({"ok": not found, "config": str(path), "problems": found})
    else:
        for line in found:
            output.note(line, style="red")
        if not found:
            output.write(f"{path}: ok, {len(parsed.pools)} pool(s)\n")
    return ExitCode.FAILED if found else ExitCode.OK


@config_app.command("schema")
def schema(json_mode: Json = False) -> int:
    """Print the JSON Schema of the configuration."""
    indent = None if json_mode else 2
    Output().write(json.dumps(Config.model_json_schema(), indent=indent) + "\n")
    return ExitCode.OK


@config_app.command("show")
def show(json_mode: Json = False, config: ConfigFile = None) -> int:
    """Print the configuration in force: file, environment and defaults together.

    Secrets are not part of it: they come from files and the environment.
    """
    try:
        parsed, path = read_config(config, missing_ok=True)
    except ConfigError as error:
        raise Failed(str(error)) from None
    output = Output(json_mode=json_mode)
    tree = parsed.model_dump(mode="json")
    if json_mode:
        output.emit(tree)
    else:
        output.note(f"# {path}" if path.exists() else f"# {path} does not exist: defaults")
        output.write(config_yaml(parsed))
    return ExitCode.OK


def config_yaml(config: Config, *, defaults: bool = True) -> str:
    """`config` as YAML that reads back as the same; with `defaults`, every key."""
    tree = config.model_dump(mode="json", exclude_defaults=not defaults)
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=100)


def _write(path: Path, text: str, *, force: bool) -> None:
    """Put a whole 0600 file in place, or none."""
    if not force and path.exists():
        raise FileExistsError(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
