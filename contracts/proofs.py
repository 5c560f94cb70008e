"""A proof of determinism: a file that holds everything its claim is checked by.

One JSON object a line, in this order:

    header                 what was asked, of which pool
    (run | control | bar)* every stream that ended, and what must differ or must not serve
    verdict                what whoever made it found
    seal                   how many lines stand before it, and the sha256 of their bytes

A reader needs nothing else: no network, no daemon, no model.  The seal finds what
was changed by accident or by hand; it is no signature, so that whoever does not
trust the maker of a proof makes one of his own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from contracts.ids import Digest, PoolId, ReplicaId, Uuid
from contracts.model import Contract, Elapsed, TokenCount, UnixMilliseconds
from contracts.pools import FailureReason, ReplicaState
from contracts.sampler_profiles import PROFILE_VERSION_PATTERN, SamplerProfile
from contracts.tasks import SEED_MAX, TaskRequest

FORMAT_VERSION = 1
SEEDS_MIN = 64
"""Fewer prove nothing."""
SEEDS_MAX = 1024
PIECES_MAX = 65_536
LINE_BYTES_MAX = 4 * 2**20
PROOF_BYTES_MAX = 64 * 2**20
LINES_MAX = 200_000

Seed = Annotated[int, Field(ge=0, le=SEED_MAX)]
Pieces = Annotated[tuple[str, ...], Field(max_length=PIECES_MAX, fail_fast=True)]


class Round(StrEnum):
    """What went on, or had just happened, while the seeds ran."""

    QUIET = "quiet"
    """Nothing else ran in the pool."""
    LOADED = "loaded"
    """Other tasks kept every slot busy, before and after each run."""
    ENGINE_RESTARTED = "engine_restarted"
    """An engine had been killed and started again."""
    POOL_MANAGERD_RESTARTED = "pool_managerd_restarted"
    ORCHESTRATORD_RESTARTED = "orchestratord_restarted"


class ProvenReplica(Contract):
    """One replica, and where it computes."""

    replica_id: ReplicaId = Field(description="The replica.")
    devices: tuple[str, ...] = Field(
        min_length=1, max_length=64, description="Names of its cards; `CPU` where it has none."
    )


class ProvenPool(Contract):
    """The pool the claim is about."""

    pool_id: PoolId = Field(description="The pool.")
    engine: str = Field(max_length=64, description="The engine.")
    engine_version: str = Field(min_length=1, max_length=256, description="Of every replica.")
    model_id: str = Field(max_length=128, description="The model's id.")
    model_digest: Digest = Field(description="sha256 of the model file, on every replica.")
    ctx: TokenCount = Field(description="Tokens of context of one task.")
    slots: int = Field(ge=1, le=1024, description="Tasks a replica decodes at once.")
    replicas: tuple[ProvenReplica, ...] = Field(
        min_length=1, max_length=1000, description="Every replica that took part."
    )


class ProvenSampler(Contract):
    """The sampler profile in use; values and sha256 are null where its file is out of reach."""

    version: str = Field(pattern=PROFILE_VERSION_PATTERN, description="Its version.")
    values: SamplerProfile | None = Field(description="What it sets.")
    sha256: Digest | None = Field(description="Of its file.")


class Header(Contract):
    """What was asked, of which pool, in which rounds."""

    kind: Literal["header"] = Field(default="header", description="The first line.")
    format: Literal["llama-orch-proof"] = Field(
        default="llama-orch-proof", description="What this file is."
    )
    format_version: int = Field(default=FORMAT_VERSION, ge=1, description="Of this format.")
    created_ms: UnixMilliseconds = Field(description="When it was made, Unix ms.")
    llama_orch_version: str = Field(max_length=64, description="Of the server that was asked.")
    pool: ProvenPool = Field(description="The pool.")
    sampler: ProvenSampler = Field(description="The sampler profile.")
    request: TaskRequest = Field(description="What every run asked for, but for its seed.")
    seeds: tuple[Seed, ...] = Field(
        min_length=1, max_length=SEEDS_MAX, description="Every seed that was run."
    )
    rounds: tuple[Round, ...] = Field(min_length=1, max_length=5, description="Every round.")


class Output(Contract):
    """One stream from its first piece to its end; equal ones agree in all fields but `sha256`."""

    finish_reason: str = Field(max_length=32, description="Why the engine stopped.")
    tokens_in: TokenCount = Field(description="Prompt tokens.")
    tokens_out: TokenCount = Field(description="Generated tokens.")
    pieces: Pieces = Field(description="The text of each `token` event, in order.")
    sha256: Digest = Field(description="`sequence_digest` of the pieces.")


class Run(Contract):
    """One seed on one replica in one round."""

    kind: Literal["run"] = Field(default="run", description="A run.")
    round: Round = Field(description="The round.")
    seed: Seed = Field(description="The seed the engine used.")
    replica_id: ReplicaId = Field(description="The replica that ran it.")
    task_id: Uuid = Field(description="The task.")
    engine_version: str = Field(max_length=256, description="As the stream told it.")
    model_digest: Digest = Field(description="As the stream told it.")
    first_token_ms: Elapsed | None = Field(description="Start to first token.")
    decode_ms: Elapsed | None = Field(description="First token to last.")
    output: Output = Field(description="What came.")


class Control(Contract):
    """The same request and seed put to another model: its output must differ."""

    kind: Literal["control"] = Field(default="control", description="A negative control.")
    seed: Seed = Field(description="One of the proven seeds.")
    replica_id: ReplicaId = Field(description="The replica that ran it, of another pool.")
    task_id: Uuid = Field(description="The task.")
    engine_version: str = Field(max_length=256, description="As the stream told it.")
    model_digest: Digest = Field(description="As the stream told it.")
    output: Output = Field(description="What came.")


class Bar(Contract):
    """A replica that differed from its pool, and was kept from serving."""

    kind: Literal["bar"] = Field(default="bar", description="A replica that was barred.")
    differs_by: Literal["model", "engine_version"] = Field(description="What was not as pinned.")
    replica_id: ReplicaId = Field(description="The replica.")
    state: ReplicaState = Field(description="Its state when it was seen.")
    reason: FailureReason = Field(description="Why it does not serve.")
    message: str = Field(max_length=2048, description="The same in words.")


class Verdict(Contract):
    """What the maker of a proof found; a verifier finds it again."""

    kind: Literal["verdict"] = Field(default="verdict", description="The line before the last.")
    proven: bool = Field(description="Whether equal requests gave equal bytes.")
    runs: int = Field(ge=0, description="Runs held.")
    outputs_sha256: Digest = Field(description="`outputs_digest` of the proven outputs.")


class Seal(Contract):
    """The last line."""

    kind: Literal["seal"] = Field(default="seal", description="The last line.")
    lines: int = Field(ge=0, description="Lines before this one.")
    sha256: Digest = Field(description="Of all bytes before this line.")


Record = Annotated[Header | Run | Control | Bar | Verdict | Seal, Field(discriminator="kind")]


def sequence_digest(pieces: Iterable[str]) -> str:
    """sha256 over each piece as the length of its UTF-8 in 8 bytes, big endian, then its UTF-8.

    With the lengths in it, boundaries count: `a`, `bc` is not `ab`, `c`.
    """
    digest = hashlib.sha256()
    for piece in pieces:
        encoded = piece.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return f"sha256:{digest.hexdigest()}"


def outputs_digest(outputs: Iterable[tuple[int, str]]) -> str:
    """sha256 over (seed, sequence digest) in the order of the seeds, as `SEED DIGEST` lines."""
    lines = "".join(f"{seed} {found}\n" for seed, found in sorted(outputs))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
