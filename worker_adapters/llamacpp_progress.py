"""How far llama.cpp is with a prompt, before its first token."""

from __future__ import annotations

from worker_adapters.base import Progress
from worker_adapters.errors import EngineProtocolError
from worker_adapters.llamacpp_dialect import Event, PromptProgress


class PromptWatch:
    """Reads the events of one stream up to its first text.

    llama.cpp says where it stands when it takes a prompt up and after each
    batch.  One that was not asked, or is too old to know the question, tells
    the size of the prompt with every token and nothing of its cache.
    """

    def __init__(self) -> None:
        self._told: Progress | None = None

    def told(self, event: Event) -> Progress | None:
        """What an event before the first text says that is new; None: nothing.

        Raises:
            EngineProtocolError: its figures contradict each other, or earlier ones.
        """
        said, before = event.prompt_progress, self._told
        if said is not None:
            progress = _progress(said)
            if before is not None and not _is_advance(before, progress):
                return None
        elif before is None and event.tokens_evaluated and not event.stop:
            progress = Progress(event.tokens_evaluated, None, event.tokens_evaluated)
        else:
            return None
        self._told = progress
        return progress


def _progress(said: PromptProgress) -> Progress:
    if said.processed > said.total or (said.cache or 0) > said.total:
        raise EngineProtocolError(
            f"the engine told of {said.processed} tokens, {said.cache} of them cached,"
            f" of a prompt of {said.total}"
        )
    return Progress(said.total, said.cache, said.processed)


def _is_advance(before: Progress, after: Progress) -> bool:
    if before.prompt_tokens != after.prompt_tokens:
        raise EngineProtocolError(
            f"the engine told of a prompt of {before.prompt_tokens} tokens, then of one"
            f" of {after.prompt_tokens}"
        )
    return after.processed_tokens > before.processed_tokens
