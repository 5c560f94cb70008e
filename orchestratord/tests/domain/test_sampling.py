"""How tokens are picked: the request's own word, else its profile's, else the engine's."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.sampler_profiles import DEFAULT_STRICT, SamplerProfile
from orchestratord.domain.admission import admitting_pools
from orchestratord.domain.sampling import Sampling, profile_of, sampling_of
from orchestratord.errors import ProfileUnknown, Unable
from orchestratord.tests.builders import CHAT, abilities, pool_view, replica, task_request

CALM = SamplerProfile(
    temperature=0.3,
    top_p=0.9,
    top_k=20,
    min_p=0.1,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.2,
)
PROFILES = {"calm-1": CALM, DEFAULT_STRICT: CALM.model_copy(update={"temperature": 0.8})}


def sampling(**fields: Any) -> Sampling:
    return sampling_of(task_request(**fields), PROFILES)


def test_without_a_profile_what_is_not_said_is_the_engine_s() -> None:
    """LO-ORC-178."""
    assert sampling() == Sampling()
    assert sampling(top_k=3) == Sampling(top_k=3)
    assert profile_of(task_request()) is None


def test_a_field_of_the_request_wins_over_its_profile() -> None:
    """LO-ORC-178."""
    named = {"sampler_profile_version": "calm-1"}
    assert sampling(**named) == Sampling(**CALM.model_dump())
    mixed = sampling(**named, temperature=0.0, top_k=0)
    assert mixed == Sampling(**CALM.model_dump() | {"temperature": 0.0, "top_k": 0})


def test_a_strict_task_depends_on_no_engine_s_defaults() -> None:
    """LO-ORC-171."""
    assert profile_of(task_request(determinism="strict")) == DEFAULT_STRICT
    found = sampling(determinism="strict", top_p=0.5)
    assert (found.temperature, found.top_p, found.min_p) == (0.8, 0.5, 0.1)
    assert None not in (getattr(found, name) for name in SamplerProfile.model_fields)
    named = task_request(determinism="strict", sampler_profile_version="calm-1")
    assert profile_of(named) == "calm-1"
    assert profile_of(task_request(determinism="best_effort")) is None


def test_an_unknown_profile_is_refused_and_the_known_ones_named() -> None:
    """LO-ORC-179."""
    with pytest.raises(ProfileUnknown) as refused:
        sampling(sampler_profile_version="calm-2")
    assert refused.value.code is ErrorCode.INVALID_PARAMS
    assert refused.value.details == {
        "field": "sampler_profile_version",
        "reason": "there is no such profile",
        "known": [DEFAULT_STRICT, "calm-1"],
    }
    assert "'calm-2'; known: " in refused.value.message


def test_an_engine_is_not_told_of_what_it_lacks_where_that_does_nothing() -> None:
    """LO-ORC-180."""
    found = Sampling(**CALM.model_dump())
    bare = frozenset(Feature) - {Feature.PRESENCE_PENALTY, Feature.REPETITION_PENALTY}
    told = found.for_engine(bare)
    assert (told.presence_penalty, told.repetition_penalty) == (None, None)
    assert (told.frequency_penalty, told.min_p, told.top_k) == (0.2, 0.1, 20)
    assert found.for_engine(frozenset(Feature)) == found.for_engine(None) == found


def test_a_profile_the_engine_cannot_follow_is_refused() -> None:
    """LO-ORC-180."""
    request = task_request(sampler_profile_version="calm-1")
    view = pool_view(replica(capabilities=abilities(without=[Feature.MIN_P])))
    with pytest.raises(Unable) as refused:
        admitting_pools(request, sampling_of(request, PROFILES), [CHAT], {"chat": view})
    assert refused.value.details == {
        "field": "sampler_profile_version",
        "reason": "engine llamacpp of pool chat has no min_p",
    }
    view = pool_view(replica(capabilities=abilities(without=[Feature.PRESENCE_PENALTY])))
    assert admitting_pools(request, sampling_of(request, PROFILES), [CHAT], {"chat": view})
