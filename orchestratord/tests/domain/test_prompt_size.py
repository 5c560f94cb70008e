"""How long a prompt is, without asking anybody: a guess, and a bound that is never passed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.tasks import TaskRequest, Workload
from orchestratord.domain.prompt_size import (
    BEGIN_TOKENS,
    INPUT_TOKENS,
    MESSAGE_TOKENS,
    PAIR_TOKENS,
    PromptSize,
    estimate,
)
from orchestratord.tests.builders import task_request
from orchestratord.tests.domain.scheduling import REPEATABLE


def chat(*contents: str) -> TaskRequest:
    messages = [{"role": "user", "content": content} for content in contents]
    return task_request(workload="chat", prompt=None, messages=messages)


@pytest.mark.parametrize(
    ("prompt", "most"), [(" ", 1), ("word", 4), ("häuser", 7), ("語", 3), ("🦙", 4)]
)
def test_a_token_stands_for_at_least_one_byte(prompt: str, most: int) -> None:
    assert estimate(task_request(prompt=prompt)).most == most + BEGIN_TOKENS


def test_what_a_template_puts_around_each_message_is_bounded_too() -> None:
    assert estimate(chat("abcd", "efgh")).most == 8 + BEGIN_TOKENS + 3 * MESSAGE_TOKENS


def test_ordinary_text_is_guessed_at_four_bytes_a_token() -> None:
    assert estimate(task_request(prompt="word " * 400)).tokens == 501


@REPEATABLE
@given(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=5))
def test_a_guess_is_at_least_one_token_and_never_passes_the_bound(contents: list[str]) -> None:
    for request in (task_request(prompt="".join(contents)), chat(*contents)):
        size = estimate(request)
        assert 1 <= size.tokens <= size.most


def test_a_counted_prompt_leaves_no_doubt() -> None:
    assert PromptSize.counted(7) == PromptSize(7, 7, 7)


def inputs(workload: Workload, *texts: str) -> TaskRequest:
    return task_request(workload=workload, prompt=None, max_tokens=None, inputs=list(texts))


def test_each_input_of_an_embedding_stands_for_itself_and_all_of_them_are_the_work() -> None:
    """LO-ORC-164."""
    size = estimate(inputs(Workload.EMBEDDING, "a" * 40, "b" * 4))
    assert size == PromptSize(11 + 2, 44 + 2 * INPUT_TOKENS, 40 + INPUT_TOKENS)
    assert PromptSize.counted_inputs(Workload.EMBEDDING, (9, 3)) == PromptSize(
        12, 12 + 2 * INPUT_TOKENS, 9
    )


def test_a_query_is_read_with_each_of_its_documents() -> None:
    """LO-ORC-164."""
    size = estimate(inputs(Workload.RERANK, "q" * 8, "a" * 40, "b" * 4))
    assert size == PromptSize(13 + 4, 60 + 2 * PAIR_TOKENS, 48 + PAIR_TOKENS)
    assert PromptSize.counted_inputs(Workload.RERANK, (5, 9, 3)) == PromptSize(
        22, 22 + 2 * PAIR_TOKENS, 14
    )
