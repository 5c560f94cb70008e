"""The options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts.ids import is_uuid
from llama_orch.failures import UsageMistake

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, errors too.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Where orchestratord listens; else LLORCH_URL, else the running instance.",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the API token; else LLORCH_API_TOKEN, else the one in the state directory.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration; else LLORCH_CONFIG, else the one in the user's config directory.",
    ),
]
TaskId = Annotated[str, typer.Argument(metavar="TASK", help="The id of a task.")]


def checked_task_id(text: str) -> str:
    """`text` in lower case; a UsageMistake where it is no task id."""
    if not is_uuid(text):
        raise UsageMistake(f"{text!r} is not a task id: it looks like {_EXAMPLE}")
    return text.lower()


_EXAMPLE = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
