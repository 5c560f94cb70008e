"""`determinism`: `prove` that a pool gives equal bytes, and `verify` a proof of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import anyio
import typer

from contracts.proofs import SEEDS_MAX, SEEDS_MIN, Round
from contracts.sampler_profiles import DEFAULT_STRICT, PROFILE_VERSION_PATTERN
from llama_orch.connection import discover
from llama_orch.determinism.prove import Wanted, prove
from llama_orch.determinism.sampler import sampler_in_use
from llama_orch.determinism.subject import Ask
from llama_orch.determinism.verify import verify_and_report
from llama_orch.failures import UsageMistake
from llama_orch.options import ConfigFile, Json, TokenFile, Url, checked_pool_id
from llama_orch.output import Output

PROMPT = "Tell me about the river and the mountain."
MAX_TOKENS_MAX = 4096

determinism_app = typer.Typer(
    name="determinism",
    help="Prove that equal requests give equal bytes, and verify a proof.",
    no_args_is_help=True,
)


@determinism_app.command("verify")
def verify(
    proof: Annotated[Path, typer.Argument(metavar="PROOF", help="The file of a proof.")],
    json_mode: Json = False,
) -> int:
    """Find again, from the file alone, everything a proof claims.

    Exits with 0 where it holds, with 1 where it does not or was changed.
    """
    return verify_and_report(proof, Output(json_mode=json_mode))


@determinism_app.command("prove")
def prove_pool(
    pool: Annotated[str, typer.Option("--pool", metavar="POOL", help="The pool.")],
    seeds: Annotated[
        int, typer.Option("--seeds", min=SEEDS_MIN, max=SEEDS_MAX, help="How many seeds, from 0.")
    ] = SEEDS_MIN,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, max=MAX_TOKENS_MAX, help="Of each text.")
    ] = 64,
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="What every run goes on with.")
    ] = PROMPT,
    sampler: Annotated[
        str, typer.Option("--sampler", metavar="NAME-N", help="The sampler profile.")
    ] = DEFAULT_STRICT,
    other_pool: Annotated[
        str | None,
        typer.Option("--other-pool", metavar="POOL", help="Of another model: must differ."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PROOF", help="The file; else proof-POOL-TIME.jsonl here."),
    ] = None,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Run every seed on every replica of a pool, at rest and under load, and write a proof.

    Exits with 0 where equal seeds gave equal bytes, with 1 where they did not.
    """
    if re.fullmatch(PROFILE_VERSION_PATTERN.strip("^$"), sampler) is None:
        raise UsageMistake(f"--sampler: {sampler!r} is no profile; they look like {DEFAULT_STRICT}")
    if not prompt:
        raise UsageMistake("--prompt: give a text")
    if out is not None and not out.parent.is_dir():
        raise UsageMistake(f"--out: there is no directory {out.parent}")
    ask = Ask(
        pool_id=checked_pool_id(pool),
        prompt=prompt,
        max_tokens=max_tokens,
        sampler=sampler_in_use(sampler, config),
        seeds=tuple(range(seeds)),
        rounds=(Round.QUIET, Round.LOADED),
    )
    other = None if other_pool is None else checked_pool_id(other_pool)
    connection, output = discover(url, token_file, config), Output(json_mode=json_mode)
    return anyio.run(prove, connection, output, Wanted(ask, other, out))
