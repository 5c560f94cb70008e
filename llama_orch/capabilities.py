"""`capabilities`: what may be asked of each pool, and what not, and why."""

from __future__ import annotations

import anyio
from rich.text import Text

from contracts.capabilities import Capabilities, PoolCapabilities
from llama_orch.api import Api
from llama_orch.connection import Connection, discover
from llama_orch.options import ConfigFile, Json, TokenFile, Url
from llama_orch.output import Output, printable
from llama_orch.tables import of_facts


def capabilities(
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Show what each pool serves: workloads, features, strict output or why not."""
    return anyio.run(_capabilities, discover(url, token_file, config), Output(json_mode=json_mode))


async def _capabilities(connection: Connection, output: Output) -> int:
    async with Api(connection) as api:
        found = await api.get("/v1/capabilities", Capabilities)
    if output.json_mode:
        output.emit(found.model_dump(mode="json"))
        return 0
    for pool in found.pools:
        _show(pool, output)
    output.show(Text(f"sampler profiles  {', '.join(found.sampler_profiles)}"))
    return 0


def _show(pool: PoolCapabilities, output: Output) -> None:
    table = of_facts()
    unknown = "(does not tell its version)" if pool.slots_total else "(no replica is ready)"
    engine = f"{pool.engine} {pool.engine_version or unknown}"
    table.add_row("pool", pool.pool_id)
    table.add_row("model", printable(pool.model_id))
    table.add_row("digest", pool.model_digest or "not known")
    table.add_row("engine", printable(engine))
    if pool.trtllm_version is not None:
        table.add_row("TensorRT-LLM", printable(pool.trtllm_version))
    table.add_row("context", f"{pool.ctx_max} tokens")
    table.add_row("slots", f"{pool.slots_free} of {pool.slots_total} free")
    table.add_row("workloads", ", ".join(pool.workloads) or "none")
    table.add_row("features", ", ".join(pool.features) or "not told")
    table.add_row("strict", "yes" if pool.strict else printable(f"no: {pool.strict_refusal}"))
    output.show(table)
    output.show(Text(""))
