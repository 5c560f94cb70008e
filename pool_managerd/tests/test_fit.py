"""The memory a model takes, and the sentence that refuses it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_managerd.domain.fit import (
    GIB,
    OVERHEAD_BYTES,
    Card,
    Estimate,
    LayerShape,
    ModelShape,
    estimate,
    refusal,
)
from pool_managerd.domain.fit_terms import Terms, leaves_all_on_the_cards, terms_of

LLAMA_3_8B = ModelShape(
    layers=tuple(LayerShape(weights=130 * 2**20, keys=8 * 128, values=8 * 128) for _ in range(32)),
    output=410 * 2**20,
    vocabulary=128_256,
    embedding=4096,
)
BIG = Card("GPU-big", "NVIDIA GeForce RTX 3090", 0, 24 * GIB)
SMALL = Card("GPU-small", "NVIDIA GeForce RTX 3060", 1, 12 * GIB)
HALF = GIB // 2

shapes = st.builds(
    ModelShape,
    layers=st.lists(
        st.builds(
            LayerShape,
            weights=st.integers(0, GIB),
            keys=st.integers(0, 8192),
            values=st.integers(0, 8192),
            windowed=st.booleans(),
        ),
        max_size=12,
    ).map(tuple),
    output=st.integers(0, GIB),
    vocabulary=st.integers(0, 300_000),
    embedding=st.integers(0, 16_384),
    window=st.integers(0, 8192),
)
terms = st.builds(
    Terms,
    ctx_total=st.integers(16, 1_000_000),
    slots=st.integers(1, 16),
    gpu_layers=st.none() | st.integers(0, 16),
    key_bytes=st.sampled_from([0.5625, 1.0625, 2.0, 4.0]),
    value_bytes=st.sampled_from([0.5625, 1.0625, 2.0, 4.0]),
    batch=st.integers(1, 2048),
)


def test_the_cache_of_llama_3_8b_is_exactly_1_gib_at_8192_tokens() -> None:
    """LO-POOL-091."""
    found = estimate(LLAMA_3_8B, Terms(ctx_total=8192))
    assert found.kv_cache == GIB
    # What llama.cpp reports as its compute buffer.
    assert found.compute == 258.5 * 2**20
    assert found.weights == (32 * 130 + 410) * 2**20
    assert found.overhead == OVERHEAD_BYTES
    quantised = estimate(LLAMA_3_8B, Terms(8192, key_bytes=34 / 32, value_bytes=34 / 32))
    assert quantised.kv_cache == GIB * 34 // 64


@given(shapes, terms, st.integers(1, 100_000))
def test_more_of_anything_never_takes_less(shape: ModelShape, asked: Terms, more: int) -> None:
    """LO-POOL-091."""
    found = estimate(shape, asked)
    wider = [
        (shape, replace(asked, ctx_total=asked.ctx_total + more)),
        (shape, replace(asked, slots=asked.slots + more)),
        (shape, replace(asked, key_bytes=asked.key_bytes * 2)),
        (shape, replace(asked, gpu_layers=None)),
        (shape, replace(asked, batch=asked.batch + more)),
        (replace(shape, layers=(LayerShape(more, more, more), *shape.layers)), asked),
        (replace(shape, output=shape.output + more), asked),
    ]
    for larger_shape, larger in wider:
        beyond = estimate(larger_shape, larger)
        if asked.gpu_layers is not None and larger_shape.layers != shape.layers:
            continue
        assert beyond.total >= found.total


@given(shapes, terms, st.integers(0, 24 * GIB), st.integers(0, GIB), st.integers(0, 4 * GIB))
def test_more_free_memory_never_turns_a_yes_into_a_no(
    shape: ModelShape, asked: Terms, free: int, reserve: int, more: int
) -> None:
    needed = estimate(shape, asked)
    fits = refusal("m", needed, [replace(BIG, free=free)], reserve) is None
    assert fits == (needed.total <= free - reserve)
    if fits:
        assert refusal("m", needed, [replace(BIG, free=free + more)], reserve) is None


@given(shapes, terms, st.integers(0, 24 * GIB), st.sampled_from([(), (2.0, 1.0)]))
def test_the_context_that_is_offered_fits(
    shape: ModelShape, asked: Terms, free: int, split: tuple[float, ...]
) -> None:
    """LO-POOL-092."""
    cards = [replace(BIG, free=free), replace(SMALL, free=free // 2)]
    sentence = refusal("m", estimate(shape, asked), cards, 0, split)
    offered = re.search(r"lower `ctx` to (\d+)", sentence or "")
    if offered is not None:
        smaller = replace(asked, ctx_total=int(offered[1]) * asked.slots)
        assert smaller.ctx_total <= asked.ctx_total
        assert refusal("m", estimate(shape, smaller), cards, 0, split) is None


def test_a_refusal_tells_every_number_and_the_context_that_would_fit() -> None:
    """LO-POOL-092."""
    needed = estimate(LLAMA_3_8B, Terms(ctx_total=2 * 32_768, slots=2))
    assert refusal("qwen7b", needed, [BIG], HALF) is None
    assert refusal("qwen7b", needed, [replace(SMALL, free=13 * GIB)], HALF) == (
        "qwen7b needs 13.0 GiB on GPU 1 (NVIDIA GeForce RTX 3060): 4.5 weights + 8.0 KV cache"
        " (ctx 32768 x 2 slots) + 0.5 compute; 12.5 GiB are free after the reserve of 0.5:"
        " lower `ctx` to 30720 or `slots`, or choose a smaller quantisation"
    )


def test_a_model_that_no_context_makes_fit_is_told_so() -> None:
    sentence = refusal("m", Estimate(weights=20 * GIB), [SMALL], HALF)
    assert sentence == (
        "m needs 20.0 GiB on GPU 1 (NVIDIA GeForce RTX 3060): 20.0 weights; 11.5 GiB are free"
        " after the reserve of 0.5: choose a smaller model or quantisation, or another card"
    )


def test_two_cards_share_a_model_by_their_split() -> None:
    """LO-POOL-093: a 3090 and a 3060 hold together what neither holds alone."""
    needed = Estimate(weights=30 * GIB, compute=GIB)
    assert refusal("m", needed, [BIG], 0) is not None
    assert refusal("m", needed, [BIG, SMALL], 0, (2.0, 1.0)) is None
    equal = refusal("m", needed, [BIG, SMALL], 0)
    assert equal is not None
    assert "needs 16.0 GiB on GPU 1 (NVIDIA GeForce RTX 3060), its 50% of the model" in equal


def test_layers_of_a_sliding_window_hold_the_window_only() -> None:
    layer = LayerShape(0, keys=1024, values=1024)
    shape = ModelShape((layer, replace(layer, windowed=True)), output=0, window=1024)
    found = estimate(shape, Terms(ctx_total=65_536, slots=2))
    assert found.kv_cache == 4096 * (65_536 + 2 * 1024 + 512)


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ("", {}),
        ("-c 4096", {"ctx_total": 4096}),
        ("--ctx-size 1 --ctx-size 2", {"ctx_total": 2}),
        ("-ngl 10", {"gpu_layers": 10}),
        ("-ngl 10 -ngl all", {}),
        ("-ctk q8_0 --cache-type-v q4_0", {"key_bytes": 1.0625, "value_bytes": 0.5625}),
        ("-b 64", {"batch": 64}),
        ("-ub 1024 -np 4", {"batch": 1024, "slots": 4}),
        ("--embeddings", {"logits": False}),
    ],
)
def test_engine_arguments_change_the_terms(arguments: str, changes: dict[str, float]) -> None:
    """LO-POOL-094."""
    found = terms_of(1000, 2, arguments.split())
    assert found is not None
    assert {name: getattr(found, name) for name in changes} == changes
    assert replace(Terms(2000, 2), **changes) == found  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    ["-ot exps=CPU", "--cpu-moe", "--no-kv-offload", "-ngl auto", "-ngl -1", "-c 0", "-ctk q9"],
)
def test_arguments_that_are_not_followed_leave_no_estimate(arguments: str) -> None:
    """LO-POOL-094."""
    assert terms_of(1000, 2, arguments.split()) is None


def test_a_command_that_keeps_layers_off_the_cards_is_known() -> None:
    assert leaves_all_on_the_cards(["llama-server", "-m", "x", "-c", "{ctx_total}"])
    assert not leaves_all_on_the_cards(["llama-server", "-m", "x", "-ngl", "20"])


def test_no_layer_on_the_cards_takes_nothing() -> None:
    assert estimate(LLAMA_3_8B, Terms(8192, gpu_layers=0)).total == 0
    some = estimate(LLAMA_3_8B, Terms(8192, gpu_layers=8))
    assert (some.weights, some.kv_cache) == (8 * 130 * 2**20, GIB // 4)
    # The last layers go to the cards first, and the output after all of them.
    unequal = ModelShape(tuple(LayerShape(weights) for weights in (1, 10, 100)), output=1000)
    taken = [estimate(unequal, Terms(16, gpu_layers=layers)).weights for layers in range(5)]
    assert taken == [0, 100, 110, 111, 1111]
