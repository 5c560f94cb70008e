"""A task as its client knows it: request, admission, state."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from contracts.errors import ErrorCode
from contracts.ids import CorrelationId, ModelId, PoolId, Uuid
from contracts.model import (
    Contract,
    Elapsed,
    Milliseconds,
    Omissible,
    TokenCount,
    UnixMilliseconds,
)

SEED_MAX = 2**32 - 2
PROMPT_CHARACTERS_MAX = 16_777_216
RERANK_INPUTS_MIN = 2


class TaskState(StrEnum):
    """Where a task is in its life; the last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


TERMINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELED})


class Priority(StrEnum):
    """The two classes of the queue; every interactive task goes before every batch task."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Workload(StrEnum):
    """What the engine is asked to do."""

    COMPLETION = "completion"
    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANK = "rerank"


class Message(Contract):
    """One turn of a chat; the engine's own template renders it."""

    role: Literal["system", "user", "assistant"] = Field(description="Who speaks.")
    content: str = Field(max_length=PROMPT_CHARACTERS_MAX, description="What is said.")


Text = Annotated[str, Field(max_length=PROMPT_CHARACTERS_MAX)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
MetadataKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
MetadataValue = Annotated[str, Field(max_length=512)]


class TaskRequest(Contract):
    """One piece of work for a model; unknown fields are refused."""

    task_id: Omissible[Uuid] = Field(
        default=None, description="The client's own id: repeating it never makes a second task."
    )
    session_id: Omissible[Uuid] = Field(
        default=None, description="The session whose budgets and warm cache this task uses."
    )
    workload: Workload = Field(
        default=Workload.COMPLETION, description="completion, chat, embedding or rerank."
    )
    model: Omissible[ModelId] = Field(
        default=None, description="A catalog id, or the model id of a pool."
    )
    model_ref: Omissible[str] = Field(
        default=None, min_length=1, max_length=4096, description="A model ref as in the config."
    )
    engine: Omissible[Literal["llamacpp", "vllm", "tgi", "triton", "openai"]] = Field(
        default=None, description="Only pools of this engine."
    )
    pool_id: Omissible[PoolId] = Field(default=None, description="Only this pool.")
    priority: Priority = Field(
        default=Priority.INTERACTIVE, description="The queue class: interactive goes first."
    )
    prompt: Omissible[Text] = Field(
        default=None, min_length=1, description="The text to continue (completion)."
    )
    messages: Omissible[tuple[Message, ...]] = Field(
        default=None,
        min_length=1,
        max_length=1024,
        fail_fast=True,
        description="The conversation (chat).",
    )
    inputs: Omissible[tuple[Text, ...]] = Field(
        default=None,
        fail_fast=True,
        min_length=1,
        max_length=1024,
        description="Texts (embedding); the query, then the documents (rerank).",
    )
    max_tokens: Omissible[int] = Field(
        default=None,
        ge=1,
        le=1_048_576,
        description="The most tokens to generate; required for completion and chat.",
    )
    ctx: Omissible[int] = Field(
        default=None, ge=1, le=16_777_216, description="Tokens of context the task needs."
    )
    deadline_ms: Omissible[int] = Field(
        default=None,
        ge=1,
        le=604_800_000,
        description="Milliseconds from acceptance to the last token.",
    )
    seed: Omissible[int] = Field(
        default=None, ge=0, le=SEED_MAX, description="Sampling seed; chosen and reported if absent."
    )
    determinism: Omissible[Literal["strict", "best_effort"]] = Field(
        default=None, description="strict: byte-identical output or a refusal."
    )
    sampler_profile_version: Omissible[str] = Field(
        default=None, min_length=1, max_length=64, description="A versioned sampler profile."
    )
    temperature: Omissible[float] = Field(
        default=None, ge=0.0, le=5.0, allow_inf_nan=False, description="0 is greedy."
    )
    top_p: Omissible[float] = Field(
        default=None, gt=0.0, le=1.0, allow_inf_nan=False, description="Nucleus mass."
    )
    top_k: Omissible[int] = Field(
        default=None, ge=0, le=1_000_000, description="Candidates kept; 0 keeps all."
    )
    stop: Omissible[tuple[StopString, ...]] = Field(
        default=None,
        fail_fast=True,
        max_length=16,
        description="Strings that end the text, left out of it.",
    )
    json_schema: Omissible[dict[str, Any]] = Field(
        default=None, description="The output shall be JSON of this schema."
    )
    grammar: Omissible[str] = Field(
        default=None,
        min_length=1,
        max_length=65_536,
        description="The output shall follow this grammar, in the engine's own notation.",
    )
    expected_tokens: Omissible[int] = Field(
        default=None, ge=1, le=1_048_576, description="A guess at the output, for prediction only."
    )
    kv_hint: Omissible[Literal["reuse", "cold"]] = Field(
        default=None, description="Whether the engine may reuse cached prompt tokens."
    )
    metadata: Omissible[dict[MetadataKey, MetadataValue]] = Field(
        default=None, max_length=16, description="The client's own labels; stored, never read."
    )

    @model_validator(mode="after")
    def _one_input_for_the_workload(self) -> Self:
        wanted = {
            Workload.COMPLETION: "prompt",
            Workload.CHAT: "messages",
            Workload.EMBEDDING: "inputs",
            Workload.RERANK: "inputs",
        }[self.workload]
        for name in ("prompt", "messages", "inputs"):
            present = getattr(self, name) is not None
            if present != (name == wanted):
                raise ValueError(
                    f"workload {self.workload.value} takes `{wanted}`"
                    + (f", not `{name}`" if present else ", which is missing")
                )
        if wanted != "inputs" and self.max_tokens is None:
            raise ValueError(f"`max_tokens` is required for {self.workload.value}")
        if self.workload is Workload.RERANK and len(self.inputs or ()) < RERANK_INPUTS_MIN:
            raise ValueError("rerank takes the query and at least one document as `inputs`")
        if self.json_schema is not None and self.grammar is not None:
            raise ValueError("give a `json_schema` or a `grammar`, not both")
        for name in () if wanted != "inputs" else ("json_schema", "grammar"):
            if getattr(self, name) is not None:
                raise ValueError(f"workload {self.workload.value} takes no `{name}`")
        if self.model is None and self.model_ref is None and self.pool_id is None:
            raise ValueError("name a `model`, a `model_ref` or a `pool_id`")
        return self


class Admission(Contract):
    """The answer to an accepted task: it is on disk, and this is its place."""

    task_id: Uuid = Field(description="The task's id.")
    state: TaskState = Field(description="State as of this answer.")
    queue_position: int | None = Field(
        ge=0, description="Tasks ahead in the queue (0 = next); null once it has left the queue."
    )
    predicted_start_ms: Milliseconds | None = Field(
        description="Predicted start, in milliseconds from now; null until a rate is known."
    )
    backoff_ms: Milliseconds = Field(
        description="How long to wait before sending more, in milliseconds; 0 = no need."
    )
    stream_url: str = Field(max_length=512, description="Path of the event stream.")


class Placement(Contract):
    """Where the newest attempt ran or runs."""

    pool_id: PoolId = Field(description="The pool.")
    replica_id: str = Field(max_length=128, description="The replica.")
    engine: str = Field(max_length=64, description="The engine.")
    engine_version: str | None = Field(max_length=256, description="As the engine reports it.")
    model_digest: str | None = Field(max_length=128, description="sha256 of the model file.")


class Usage(Contract):
    """What a task used, once known."""

    tokens_in: TokenCount = Field(description="Prompt tokens.")
    tokens_out: TokenCount = Field(description="Generated tokens.")
    queue_ms: Elapsed | None = Field(description="Acceptance to start, ms.")
    first_token_ms: Elapsed | None = Field(description="Start to first token, ms.")
    decode_ms: Elapsed | None = Field(description="First token to last, ms.")


class EmbeddingResult(Contract):
    """The vectors of an `embedding` task."""

    embeddings: tuple[tuple[float, ...], ...] = Field(
        description="One vector for each of `inputs`, in their order."
    )


class RankedDocument(Contract):
    """One document of a `rerank` task."""

    index: int = Field(ge=0, description="Which document: 0 is the first after the query.")
    score: float = Field(description="Higher is better; the scale is the model's own.")


class RerankResult(Contract):
    """The documents of a `rerank` task, best first."""

    ranking: tuple[RankedDocument, ...] = Field(description="Every document once.")


class TaskError(Contract):
    """Why a task did not succeed."""

    code: ErrorCode = Field(description="From the closed list.")
    message: str = Field(max_length=2048, description="One sentence.")
    retriable: bool = Field(description="Whether sending it again may succeed.")
    retry_after_ms: Omissible[Milliseconds] = Field(
        default=None, description="When to try again, ms from the event."
    )


class TaskView(Contract):
    """A task as of now."""

    task_id: Uuid = Field(description="The task's id.")
    session_id: Uuid | None = Field(description="Its session.")
    state: TaskState = Field(description="Where it is in its life.")
    workload: Workload = Field(description="What was asked.")
    model: str | None = Field(max_length=4096, description="The model id or ref asked for.")
    priority: Priority = Field(description="Its queue class.")
    pool_id: PoolId = Field(description="The pool whose queue it entered.")
    queue_position: int | None = Field(ge=0, description="0 = next; null once it left the queue.")
    predicted_start_ms: Milliseconds | None = Field(description="Milliseconds from now.")
    attempt: int = Field(ge=0, description="Attempts begun; 0 while first queued.")
    placement: Placement | None = Field(description="Where the newest attempt ran.")
    usage: Usage | None = Field(description="Figures, once finished.")
    finish_reason: str | None = Field(max_length=32, description="Why the engine stopped.")
    text: str | None = Field(description="The whole text while it is retained, once finished.")
    result: EmbeddingResult | RerankResult | None = Field(
        default=None, description="Of an embedding or rerank, while it is retained; else null."
    )
    error: TaskError | None = Field(description="Why it failed or was canceled.")
    seed: int | None = Field(ge=0, le=SEED_MAX, description="The seed used.")
    sampler_profile_version: str | None = Field(
        default=None, max_length=64, description="The sampler profile used; null: none."
    )
    correlation_id: CorrelationId = Field(description="Of the request that made it.")
    metadata: dict[str, str] = Field(description="The client's labels.")
    created_ms: UnixMilliseconds = Field(description="Accepted at, Unix ms.")
    started_ms: UnixMilliseconds | None = Field(description="Newest attempt began, Unix ms.")
    finished_ms: UnixMilliseconds | None = Field(description="Ended, Unix ms.")
    stream_url: str = Field(max_length=512, description="Path of the event stream.")


class TaskPage(Contract):
    """One page of tasks, newest first."""

    items: tuple[TaskView, ...] = Field(
        description="The tasks; `text` and `result` are left null here."
    )
    next_cursor: str | None = Field(max_length=256, description="Pass as `cursor` for the next.")
