"""`submit` and `stream`: put a task in, read its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from contracts.capabilities import Capabilities
from contracts.ids import new_uuid
from contracts.tasks import TaskRequest, Workload
from llama_orch.api import Api
from llama_orch.connection import Connection, discover
from llama_orch.display import Display, JsonDisplay, TextDisplay
from llama_orch.failures import Failed, UsageMistake
from llama_orch.options import (
    NEW_SESSION,
    ConfigFile,
    Json,
    TaskId,
    TokenFile,
    Url,
    body_of,
    checked_pool_id,
    checked_task_id,
    milliseconds,
    session_id_or_new,
)
from llama_orch.output import Output
from llama_orch.task_input import AT_ONCE, grammar_of, input_of, schema_of, workload_of
from llama_orch.task_run import Watch, send


def submit(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]", help="The text, or the query of a rerank; - reads stdin."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model id; may be left out where one is served.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", help="Only this pool, where several serve the model.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="The most tokens to generate.")
    ] = 256,
    chat: Annotated[
        bool, typer.Option("--chat", help="A user's message, rendered by the model's template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", help="System message; implies --chat.")
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            "--workload", metavar="|".join(Workload), help="completion, or chat with --chat."
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="TEXT",
            help="To embed, or to rank; may be repeated. Without: lines of stdin.",
        ),
    ] = None,
    json_schema: Annotated[
        Path | None,
        typer.Option("--json-schema", metavar="FILE", help="The answer is JSON of this schema."),
    ] = None,
    grammar: Annotated[
        Path | None,
        typer.Option("--grammar", metavar="FILE", help="The answer follows this grammar."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="The same bytes for the same request, or a refusal.")
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", metavar="NAME-VERSION", help="Sampler profile; `capabilities` lists them."
        ),
    ] = None,
    priority: Annotated[
        str, typer.Option("--priority", metavar="interactive|batch", help="The queue class.")
    ] = "interactive",
    seed: Annotated[int | None, typer.Option("--seed", help="Sampling seed.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Nucleus mass.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Candidates kept.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="Ends the text; may be repeated.")
    ] = None,
    task_id: Annotated[
        str | None, typer.Option("--task-id", help="Your own UUID; repeating it is safe.")
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", metavar="SECONDS", help="From acceptance to the last token."),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="SESSION|new",
            help="The session whose budgets and warm cache it uses; new makes one.",
        ),
    ] = None,
    expect: Annotated[
        int | None,
        typer.Option("--expect", metavar="TOKENS", help="Your guess at the output, to predict by."),
    ] = None,
    cold: Annotated[
        bool, typer.Option("--cold", help="Read the whole prompt, whatever the cache holds.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Print the id and leave.")] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            max=86_400,
            help="Keep trying so long where the server is full or not ready.",
        ),
    ] = 0.0,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Submit a task and stream its tokens; Ctrl-C cancels it.

    Tokens go to stdout, and so does what an embedding or a rerank came to; the place in
    the queue and the figures go to stderr. With --json: one event per line, first the
    admission, last `end` or `error`; a new session before the admission, or in it with
    --detach.
    """
    kind = workload_of(workload, chat=chat or system is not None)
    session_id = None if session is None else session_id_or_new(session)
    fields: dict[str, Any] = {
        "task_id": checked_task_id(task_id) if task_id else new_uuid(),
        "model": model,
        "pool_id": None if pool is None else checked_pool_id(pool),
        "max_tokens": None if kind in AT_ONCE else max_tokens,
        "priority": priority,
        "seed": seed,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "stop": stop or None,
        "deadline_ms": None if deadline is None else milliseconds("--deadline", deadline),
        "session_id": session_id,
        "expected_tokens": expect,
        "kv_hint": "cold" if cold else None,
        "determinism": "strict" if strict else None,
        "sampler_profile_version": profile,
        "json_schema": schema_of(json_schema),
        "grammar": grammar_of(grammar),
    }
    fields |= input_of(kind, prompt, inputs or (), system)
    connection = discover(url, token_file, config)
    output = Output(json_mode=json_mode)
    made = session_id if session == NEW_SESSION else None
    return anyio.run(partial(_submit, connection, output, fields, detach, wait, new_session=made))


def stream(
    task: TaskId,
    after: Annotated[
        int, typer.Option("--from", metavar="ID", min=0, help="Only events after this one.")
    ] = 0,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Read a task's events, from its first or from --from; Ctrl-C leaves it running.

    With --json: one event per line.
    """
    task = checked_task_id(task)
    connection = discover(url, token_file, config)
    return anyio.run(_stream, connection, Output(json_mode=json_mode), task, after)


async def _submit(
    connection: Connection,
    output: Output,
    fields: dict[str, Any],
    detach: bool,
    wait_s: float,
    *,
    new_session: str | None,
) -> int:
    # Checked before anything is asked of the server, under a stand-in for its only model.
    named = fields["model"] is not None or fields["pool_id"] is not None
    request = task_request(fields if named else {**fields, "model": "model"})
    async with Api(connection) as api:
        if not named:
            model = await only_model(api, request.workload)
            request = request.model_copy(update={"model": model})
        display = display_for(output, new_session, request.inputs or ())
        if not detach:
            return await Watch(api, str(request.task_id), display).submit(request, wait_s)
        admission = await send(api, request, display, wait_s)
    made = {} if new_session is None else {"session_id": new_session}
    if output.json_mode:
        output.emit(admission.model_dump(mode="json") | made)
        return 0
    output.write(f"{admission.task_id}\n")
    for name in made.values():
        output.note(f"session {name}", style="dim")
    return 0


async def _stream(connection: Connection, output: Output, task_id: str, after: int) -> int:
    async with Api(connection) as api:
        return await Watch(api, task_id, display_for(output)).follow(after)


def display_for(
    output: Output, new_session: str | None = None, inputs: Sequence[str] = ()
) -> Display:
    """JSON lines under `--json`, else live text."""
    if output.json_mode:
        return JsonDisplay(output, new_session)
    return TextDisplay(output, new_session, inputs=inputs)


async def only_model(api: Api, workload: Workload) -> str:
    """The one model that is served, or of several the one that serves this workload.

    Raises:
        Failed: none is.
        UsageMistake: there are several, and one must be named.
    """
    capabilities = await api.get("/v1/capabilities", Capabilities)
    able = {pool.model_id for pool in capabilities.pools if workload in pool.workloads}
    models = sorted(able or {pool.model_id for pool in capabilities.pools})
    if not models:
        raise Failed("no pool is configured: add one to the configuration, or use `up --model`")
    if len(models) > 1:
        raise UsageMistake(f"several models are served, name one with --model: {', '.join(models)}")
    return models[0]


def task_request(fields: dict[str, Any]) -> TaskRequest:
    """The request; a UsageMistake names the option that is out of bounds."""
    present = {name: value for name, value in fields.items() if value is not None}
    return body_of(TaskRequest, present)
