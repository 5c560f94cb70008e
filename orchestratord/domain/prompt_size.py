"""How many tokens a prompt has, and how sure that is.

A token of every tokenizer in use stands for at least one byte of text, so the
bytes of a prompt bound its tokens from above; what a template adds to each
message is bounded too.  Where the bound leaves no doubt nobody needs to be
asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.tasks import TaskRequest, Workload

BYTES_PER_TOKEN = 4
"""Of ordinary text, for an estimate."""
BEGIN_TOKENS = 2
"""What an engine may put before a text."""
MESSAGE_TOKENS = 16
"""What a template puts around one message, and once more before the answer."""


INPUT_TOKENS = 8
"""What an engine may put around one text that it embeds."""
PAIR_TOKENS = 128
"""What an engine may put around a query and one document: some have a template for it."""


@dataclass(frozen=True, slots=True)
class PromptSize:
    """Tokens: the best guess, and a bound that is never passed; equal when counted.

    `longest` bounds the longest sequence that has to fit a slot: a prompt is one,
    each input of an embedding is one, and so is a query with each of its documents.
    """

    tokens: int
    most: int
    longest: int

    @classmethod
    def counted(cls, tokens: int) -> PromptSize:
        """As the engine's own tokenizer counted it."""
        return cls(tokens, tokens, tokens)

    @classmethod
    def counted_inputs(cls, workload: Workload, counts: Sequence[int]) -> PromptSize:
        """Of the texts of an embedding or a rerank, each as the tokenizer counted it.

        What the engine puts around them it does not tell, so that `most` stays a
        bound; `longest` is surely reached.
        """
        around, sequences = _sequences(workload, counts)
        total = sum(sequences)
        return cls(total, total + around * len(sequences), max(sequences))


def estimate(request: TaskRequest) -> PromptSize:
    """The size of a request's prompt, without asking anybody."""
    if request.inputs is not None:
        return _estimated_inputs(request.workload, request.inputs)
    messages = request.messages or ()
    text = sum(len(m.content.encode()) for m in messages) + len((request.prompt or "").encode())
    around = BEGIN_TOKENS + MESSAGE_TOKENS * (len(messages) + bool(messages))
    guess = max(1, text // BYTES_PER_TOKEN + (around if messages else 1))
    return PromptSize(guess, text + around, text + around)


def _estimated_inputs(workload: Workload, inputs: Sequence[str]) -> PromptSize:
    around, sequences = _sequences(workload, [len(text.encode()) for text in inputs])
    guess = sum(size // BYTES_PER_TOKEN + 1 for size in sequences)
    most = sum(sequences) + around * len(sequences)
    return PromptSize(guess, most, max(sequences) + around)


def _sequences(workload: Workload, sizes: Sequence[int]) -> tuple[int, list[int]]:
    """What may be put around each sequence the engine evaluates, and the size of each."""
    if workload is Workload.RERANK:
        query, *documents = sizes
        return PAIR_TOKENS, [query + document for document in documents]
    return INPUT_TOKENS, list(sizes)
