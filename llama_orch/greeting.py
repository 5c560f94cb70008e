"""What `up` says once it serves: the models, the address, and a task that can be pasted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from contracts.capabilities import PoolPage
from contracts.pools import PoolWorkload
from contracts.service.settings import Settings

SUBMIT: dict[PoolWorkload, str] = {
    "generation": '"Why is the sky blue?"',
    "embedding": '--workload embedding --input "a cat" --input "a dog"',
    "rerank": '--workload rerank "what purrs?" --input "a cat" --input "a dog"',
}
BODIES: dict[PoolWorkload, dict[str, object]] = {
    "generation": {"prompt": "Hello", "max_tokens": 64},
    "embedding": {"workload": "embedding", "inputs": ["a cat", "a dog"]},
    "rerank": {"workload": "rerank", "inputs": ["what purrs?", "a cat", "a dog"]},
}


def greeting(url: str, settings: Settings, page: PoolPage, named: Path | None) -> str:
    """The whole of it; the example names a model that writes text, where one is served."""
    serving = sorted({pool.model_id for pool in page.items if pool.ready})
    model, workload = _example(settings, page)
    token = token_path(settings)
    config = "" if named is None else f" --config {shlex.quote(str(named))}"
    choice = f" --model {shlex.quote(model)}" if len(serving) > 1 else ""
    return (
        f"serving  {', '.join(serving) or 'nothing yet'}\n"
        f"url      {url}\n"
        f"token    {token or 'from LLORCH_API_TOKEN'}\n\n"
        f"  llama-orch submit{config}{choice} {SUBMIT[workload]}\n\n"
        f"{curl_example(url, token, model, workload)}\n\n"
        "Ctrl-C stops it.\n"
    )


def token_path(settings: Settings) -> Path | None:
    """The file the token in use came from; None where the environment gave it."""
    if settings.config.auth.token_file is not None:
        return Path(settings.config.auth.token_file).expanduser()
    path = settings.state_dir / "token"
    return path if path.is_file() else None


def curl_example(
    url: str, token: Path | None, model: str, workload: PoolWorkload = "generation"
) -> str:
    """A curl command that streams one task; it can be pasted as it is."""
    source = "$LLORCH_API_TOKEN" if token is None else f"$(cat {shlex.quote(str(token))})"
    body = json.dumps({"model": model, **BODIES[workload]})
    return (
        f"  curl -N {url}/v1/tasks \\\n"
        f'    -H "Authorization: Bearer {source}" \\\n'
        "    -H 'Accept: text/event-stream' -H 'Content-Type: application/json' \\\n"
        f"    -d '{body}'"
    )


def _example(settings: Settings, page: PoolPage) -> tuple[str, PoolWorkload]:
    """The model to show, and what its pool is for."""
    workloads = {pool.id: pool.workload for pool in settings.config.pools}
    ready = [(pool.model_id, workloads[pool.pool_id]) for pool in page.items if pool.ready]
    return min(ready, key=lambda one: (one[1] != "generation", one[0]), default=_NOTHING)


_NOTHING: tuple[str, PoolWorkload] = ("MODEL", "generation")
