"""The options that many commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from contracts.ids import NAME_PATTERN, is_uuid, new_uuid
from contracts.model import MILLISECONDS_MAX, Contract
from llama_orch.failures import UsageMistake

M = TypeVar("M", bound=Contract)

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


SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="The id of a session.")]

PoolName = Annotated[str, typer.Argument(metavar="POOL", help="The id of a pool.")]

SECONDS_MAX = 10**9
NEW_SESSION = "new"
"""Stands for the id of a session that is made here and now."""


def handed_down(context: typer.Context, given: Mapping[str, Any]) -> bool:
    """Whether a group was called for a subcommand, which then takes what the group was given.

    Options before the subcommand hold for it: nobody is to reach another server by them.
    """
    if context.invoked_subcommand is None:
        return False
    defaults = {name: value for name, value in given.items() if value}
    context.default_map = {context.invoked_subcommand: defaults}
    return True


def checked_task_id(text: str) -> str:
    """`text` in lower case; a UsageMistake where it is no task id."""
    if not is_uuid(text):
        raise UsageMistake(f"{text!r} is not a task id: it looks like {_EXAMPLE}")
    return text.lower()


def checked_session_id(text: str) -> str:
    """`text` in lower case; a UsageMistake where it is no session id."""
    if not is_uuid(text):
        raise UsageMistake(f"{text!r} is not a session id: it looks like {_EXAMPLE}")
    return text.lower()


def session_id_or_new(text: str) -> str:
    """As `checked_session_id`; of `new` an id that nobody has."""
    if text == NEW_SESSION:
        return new_uuid()
    if not is_uuid(text):
        raise UsageMistake(
            f"{text!r} is not a session id: it looks like {_EXAMPLE}, and `new` makes one"
        )
    return text.lower()


def milliseconds(option: str, seconds: float) -> int:
    """The seconds given to `option`, in milliseconds."""
    if not 0 < seconds < SECONDS_MAX:
        raise UsageMistake(f"{option}: write seconds, more than 0 and less than {SECONDS_MAX:,}")
    return max(1, round(seconds * 1000))


def checked_pool_id(text: str) -> str:
    """`text`; a UsageMistake where it can be no pool's id."""
    if re.fullmatch(NAME_PATTERN.removeprefix("^").removesuffix("$"), text) is None:
        raise UsageMistake(f"{text!r} is not a pool id; see `llama-orch pools`")
    return text


def time_span_ms(option: str, text: str) -> int:
    """The time given to `option` as `30s`, `500ms`, `5m`, `1h` or seconds, in milliseconds."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h)?", text)
    span = float(found[1]) * _MS[found[2] or "s"] if found else -1.0
    if not 0 <= span <= MILLISECONDS_MAX:
        raise UsageMistake(f"{option}: write a time as 30s, 500ms, 5m or 1h, of at most 7 days")
    return round(span)


def body_of(model: type[M], fields: Mapping[str, Any]) -> M:
    """`fields` as a request; a UsageMistake names the option that is out of bounds."""
    try:
        return model.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        option = _OPTIONS.get(name, f"--{name.removesuffix('_ms').replace('_', '-')}")
        message = first["msg"].removeprefix("Value error, ")
        message = f"{message[0].lower()}{message[1:]}"
        raise UsageMistake(f"{option}: {message}" if name in fields else message) from None


# Where an option is not named as its field.
_OPTIONS = {
    "expected_tokens": "--expect",
    "new_model_ref": "MODEL_REF",
    "sampler_profile_version": "--profile",
    "inputs": "--input",
    "determinism": "--strict",
}
_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_EXAMPLE = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
