"""`quickstart`: the whole way through, on a model made here and now.

A directory of its own under the system's temporary one, ports chosen by the
kernel, an environment without our variables: a running instance is never touched.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from contracts.config import Config, Embedded, Gpus, Listen, ModelConfig, Pool, ReplicaConfig
from contracts.ids import new_uuid
from contracts.service.settings import Settings, child_environment, load_settings
from contracts.tasks import TaskRequest
from llama_orch.api import Api
from llama_orch.config_commands import config_yaml
from llama_orch.connection import Connection
from llama_orch.daemons import Daemons
from llama_orch.failures import Failed
from llama_orch.greeting import curl_example, token_path
from llama_orch.options import Json
from llama_orch.output import Output
from llama_orch.submit import display_for
from llama_orch.supervision import Supervision, exit_code_of
from llama_orch.task_run import Watch, send
from llama_orch.up import wait_until_serving

MODEL_ID = "demo"
PROMPT = "Once upon a time"
# Two tasks go ahead on the one slot, so that a queue can be seen.
AHEAD = 2
AHEAD_TOKENS = 40
SHOWN_TOKENS = 96
MODEL_DEADLINE_S = 120.0
ERROR_CHARACTERS_MAX = 500


def quickstart(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running; print how to use and stop it.")
    ] = False,
    json_mode: Json = False,
) -> int:
    """Make a tiny model, start both daemons, stream one task, stop everything.

    Needs no GPU, no model and no configuration, and leaves nothing behind. With
    --json: the task's events, one per line.
    """
    output = Output(json_mode=json_mode)
    with _own_directory() as (directory, kept):
        settings = _settings(directory)
        code = anyio.run(partial(_quickstart, settings, output, keep=keep))
        if keep and code == 0:
            kept.append(directory)
    return code


@contextmanager
def _own_directory() -> Generator[tuple[Path, list[Path]], None, None]:
    """A new directory, removed at the end unless it was put into the list."""
    directory = Path(tempfile.mkdtemp(prefix="llama-orch-quickstart-"))
    kept: list[Path] = []
    try:
        yield directory, kept
    finally:
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)


def _settings(directory: Path) -> Settings:
    config = Config(
        state_dir=str(directory / "state"),
        orchestratord=Listen(port=0),
        pool_managerd=Listen(port=0),
        gpus=Gpus(source="none"),
        pools=(
            Pool(
                id=MODEL_ID,
                engine="llamacpp",
                model=ModelConfig(id=MODEL_ID, ref=f"file:{directory / 'demo.gguf'}"),
                ctx=1024,
                slots=1,
                replicas=(ReplicaConfig(devices=()),),
                provisioning=Embedded(mode="embedded"),
            ),
        ),
    )
    path = directory / "config.yaml"
    path.touch(mode=0o600)
    path.write_text(config_yaml(config, defaults=False), encoding="utf-8")
    return load_settings(path, environ=child_environment())


async def _quickstart(settings: Settings, output: Output, *, keep: bool) -> int:
    daemons = Daemons(
        settings.config, settings.config_path, settings.state_dir, child_environment()
    )
    supervision = Supervision(daemons, output.note)
    directory = settings.config_path.parent

    async def work(url: str) -> None:
        await _stream_one(settings, output, url)
        if keep:
            supervision.keep()
            output.note(_kept_text(settings, url, _stop_script(directory, *daemons.pids())))
        else:
            output.note("stopping", style="bold")

    async def prepare() -> None:
        await _make_model(directory / "demo.gguf", output)
        output.note("starting orchestratord and pool_managerd", style="bold")

    received = await supervision.run(work, prepare)
    if received is None and not keep:
        output.note(_next_step_text())
    return exit_code_of(received)


async def _make_model(path: Path, output: Output) -> None:
    output.note("making a tiny model", style="bold")
    argv = [sys.executable, "-m", "worker_adapters.tiny_gguf", str(path), "--preset", "demo"]
    with output.working("writing random weights"):
        try:
            with anyio.fail_after(MODEL_DEADLINE_S):
                done = await anyio.run_process(
                    argv,
                    stdin=subprocess.DEVNULL,
                    env=child_environment(),
                    check=False,
                    start_new_session=True,
                )
        except TimeoutError:
            raise Failed(f"the model was not made within {MODEL_DEADLINE_S:.0f} s") from None
    if done.returncode != 0:
        tail = done.stderr.decode("utf-8", "replace").strip()[-ERROR_CHARACTERS_MAX:]
        raise Failed(f"the model could not be made (exit code {done.returncode}): {tail}")
    output.note(
        "  its weights are random, so it will write random words: what you see is the way"
        " through, not intelligence"
    )


async def _stream_one(settings: Settings, output: Output, url: str) -> None:
    connection = Connection(url, settings.token, str(token_path(settings)))
    display = display_for(output)
    async with Api(connection) as api:
        await wait_until_serving(api, output, give_up=True)
        output.note(f"sending {AHEAD} tasks, and a third that we watch", style="bold")
        for _ in range(AHEAD):
            await send(api, _request(AHEAD_TOKENS), display)
        request = _request(SHOWN_TOKENS)
        await Watch(api, str(request.task_id), display).submit(request, cancel_on_interrupt=False)


def _request(max_tokens: int) -> TaskRequest:
    return TaskRequest(
        task_id=new_uuid(), model=MODEL_ID, prompt=PROMPT, max_tokens=max_tokens, seed=7
    )


def _stop_script(directory: Path, orchestratord: int, pool_managerd: int) -> Path:
    """A script that stops both in order and removes the directory."""
    script = directory / "stop"
    script.write_text(
        "#!/bin/sh\n"
        "# Stops this quickstart: orchestratord, then pool_managerd, then its directory.\n"
        f"for pid in {orchestratord} {pool_managerd}; do\n"
        '    kill "$pid" 2>/dev/null || continue\n'
        '    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done\n'
        "done\n"
        f"rm -rf {shlex.quote(str(directory))}\n",
        encoding="utf-8",
    )
    return script


def _kept_text(settings: Settings, url: str, stop: Path) -> str:
    token = token_path(settings)
    return (
        f"\nit goes on running\n"
        f"url      {url}\n"
        f"token    {token}\n\n"
        f'  llama-orch submit --url {url} --token-file {shlex.quote(str(token))} "Hello"\n\n'
        f"{curl_example(url, token, MODEL_ID)}\n\n"
        f"stop it with\n\n  sh {shlex.quote(str(stop))}"
    )


def _next_step_text() -> str:
    called = Path(sys.argv[0])
    program = str(called) if called.name == "llama-orch" else "llama-orch"
    return f"\nnow with a model of your own:\n\n  {shlex.quote(program)} up --model FILE.gguf"
