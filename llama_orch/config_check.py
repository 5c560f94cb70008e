"""What a configuration would fall over at, found before a daemon does."""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from contracts.config import Binary, Command, Config, Embedded, External, Listen, Pool
from contracts.service.settings import (
    ConfigError,
    load_sampler_profiles,
    model_file,
    model_problem,
    state_dir_of,
)
from llama_orch.connection import running_daemon
from llama_orch.single_model import gguf_problem


def problems(config: Config) -> Iterator[str]:
    """One line per problem: the key, what is wrong, the remedy."""
    if not config.pools:
        yield "pools: none, so nothing would be served; add one, or use `up --model FILE.gguf`"
    for index, pool in enumerate(config.pools):
        yield from _pool(f"pools[{index}]", pool)
    yield from _ports(config)
    yield from _named_files(config)
    yield from _sampler_profiles(config)


def _sampler_profiles(config: Config) -> Iterator[str]:
    try:
        load_sampler_profiles(state_dir_of(config))
    except ConfigError as error:
        yield str(error)


def _pool(key: str, pool: Pool) -> Iterator[str]:
    provisioning = pool.provisioning
    if isinstance(provisioning, External):
        if provisioning.api_key_file is not None:
            yield from _file(f"{key}.provisioning.api_key_file", provisioning.api_key_file)
        return
    if isinstance(provisioning, Binary) and provisioning.path is not None:
        yield from _program(f"{key}.provisioning.path", provisioning.path)
    if isinstance(provisioning, Command):
        yield from _program(f"{key}.provisioning.command", provisioning.command[0])
    path = model_file(pool.model.ref)
    if path is None:
        return
    what = model_problem(path, pool.model_kind)
    if what is not None:
        yield f"{key}.model.ref: {what}: {path}; put the model there, or change the ref"
        return
    runs_gguf = pool.engine == "llamacpp" and isinstance(provisioning, Embedded | Binary)
    if runs_gguf and (problem := gguf_problem(path)):
        yield f"{key}.model.ref: {problem}"


def _ports(config: Config) -> Iterator[str]:
    first, second = config.orchestratord, config.pool_managerd
    if first.port == second.port != 0 and first.host == second.host:
        yield (f"pool_managerd.port: {second.port} is orchestratord's too; give each its own, or 0")
        return
    for name, listen in (("orchestratord", first), ("pool_managerd", second)):
        if running_daemon(state_dir_of(config), name) is None:
            yield from _bind(name, listen)


def _bind(name: str, listen: Listen) -> Iterator[str]:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            what = "is taken; stop what listens there, or choose another"
            if error.errno != errno.EADDRINUSE:
                what = f"cannot be used: {error.strerror}"
            yield f"{name}: port {listen.port} on {listen.host} {what}"


def _named_files(config: Config) -> Iterator[str]:
    named = {
        "auth.token_file": config.auth.token_file,
        "auth.tls.cert": config.auth.tls.cert,
        "auth.tls.key": config.auth.tls.key,
        "gpus.file": config.gpus.file,
    }
    for key, path in named.items():
        if path is not None:
            yield from _file(key, path)


def _file(key: str, path: str) -> Iterator[str]:
    if not Path(path).expanduser().is_file():
        yield f"{key}: {path} does not exist"


def _program(key: str, name: str) -> Iterator[str]:
    if shutil.which(str(Path(name).expanduser())) is None:
        yield f"{key}: `{name}` is no program on PATH; install it, or write its full path"
