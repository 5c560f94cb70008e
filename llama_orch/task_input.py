"""What `submit` puts into a task: a text, a chat, texts to embed, a schema, a grammar."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contracts.tasks import PROMPT_CHARACTERS_MAX, Workload
from llama_orch.failures import UsageMistake

PROMPT_BYTES_MAX = 4 * PROMPT_CHARACTERS_MAX
FILE_BYTES_MAX = 1_048_576
AT_ONCE = frozenset({Workload.EMBEDDING, Workload.RERANK})


def workload_of(name: str | None, *, chat: bool) -> Workload:
    """The workload that is named, or that `--chat` means."""
    if name is None:
        return Workload.CHAT if chat else Workload.COMPLETION
    try:
        workload = Workload(name)
    except ValueError:
        raise UsageMistake(f"--workload: write one of {', '.join(Workload)}") from None
    if chat and workload is not Workload.CHAT:
        raise UsageMistake(f"--chat and --system do not go with --workload {workload}")
    return workload


def input_of(
    workload: Workload, prompt: str | None, inputs: Sequence[str], system: str | None
) -> dict[str, Any]:
    """The fields of a request that hold its texts.

    Raises:
        UsageMistake: they are missing, doubled, or no UTF-8.
    """
    if workload in AT_ONCE:
        return {"workload": workload, "inputs": _texts(workload, prompt, inputs)}
    if inputs:
        raise UsageMistake("--input goes with --workload embedding or rerank")
    if prompt is None:
        raise UsageMistake("PROMPT: missing; - reads stdin")
    text = _prompt(prompt)
    if workload is Workload.COMPLETION:
        return {"prompt": text}
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {"workload": "chat", "messages": messages}


def schema_of(path: Path | None) -> dict[str, Any] | None:
    """The JSON schema in a file."""
    if path is None:
        return None
    try:
        schema = json.loads(_file("--json-schema", path))
    except (ValueError, RecursionError):
        raise UsageMistake(f"--json-schema: {path} is not JSON") from None
    if not isinstance(schema, dict):
        raise UsageMistake(f"--json-schema: {path} holds no JSON object")
    return schema


def grammar_of(path: Path | None) -> str | None:
    """The grammar in a file."""
    return None if path is None else _file("--grammar", path)


def _texts(workload: Workload, prompt: str | None, inputs: Sequence[str]) -> list[str]:
    """Of an embedding: PROMPT or each --input; of a rerank the query before the documents.

    Where there is no --input, the lines of stdin are.
    """
    given = [_text(text.encode("utf-8", "surrogateescape"), "--input") for text in inputs]
    query = prompt if prompt not in (None, "-") else None
    if not given and (query is None or workload is Workload.RERANK):
        given = _stdin().splitlines()
    return (
        given
        if query is None
        else [_text(query.encode("utf-8", "surrogateescape"), "PROMPT"), *given]
    )


def _prompt(argument: str) -> str:
    if argument != "-":
        return _text(argument.encode("utf-8", "surrogateescape"), "PROMPT")
    return _stdin()


def _stdin() -> str:
    raw = sys.stdin.buffer.read(PROMPT_BYTES_MAX + 1)
    if len(raw) > PROMPT_BYTES_MAX:
        raise UsageMistake(f"stdin: longer than {PROMPT_BYTES_MAX >> 20} MiB")
    return _text(raw, "stdin")


def _file(option: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageMistake(f"{option}: {path}: {error.strerror}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise UsageMistake(f"{option}: {path} is longer than 1 MiB")
    return _text(raw, f"{option}: {path}")


def _text(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageMistake(f"{name}: byte {error.start} is not UTF-8") from None
