"""How many tokens a prompt has, and how sure that is.

A token of every tokenizer in use stands for at least one byte of text, so the
bytes of a prompt bound its tokens from above; what a template adds to each
message is bounded too.  Where the bound leaves no doubt nobody needs to be
asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.tasks import TaskRequest

BYTES_PER_TOKEN = 4
"""Of ordinary text, for an estimate."""
BEGIN_TOKENS = 2
"""What an engine may put before a text."""
MESSAGE_TOKENS = 16
"""What a template puts around one message, and once more before the answer."""


@dataclass(frozen=True, slots=True)
class PromptSize:
    """Tokens: the best guess, and a bound that is never passed; equal when counted."""

    tokens: int
    most: int

    @classmethod
    def counted(cls, tokens: int) -> PromptSize:
        """As the engine's own tokenizer counted it."""
        return cls(tokens, tokens)


def estimate(request: TaskRequest) -> PromptSize:
    """The size of a request's prompt, without asking anybody."""
    messages = request.messages or ()
    text = sum(len(m.content.encode()) for m in messages) + len((request.prompt or "").encode())
    around = BEGIN_TOKENS + MESSAGE_TOKENS * (len(messages) + bool(messages))
    guess = max(1, text // BYTES_PER_TOKEN + (around if messages else 1))
    return PromptSize(guess, text + around)
