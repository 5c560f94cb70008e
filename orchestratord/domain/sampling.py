"""How the tokens of a task are picked: the request's own word, else its profile's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from contracts.engines import NEUTRAL, Feature
from contracts.sampler_profiles import DEFAULT_STRICT, SamplerProfile
from contracts.tasks import TaskRequest
from orchestratord.errors import ProfileUnknown

Profiles = Mapping[str, SamplerProfile]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Every parameter of it; None leaves one to the engine."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    def wanted(self) -> Iterator[tuple[str, float]]:
        """Each parameter that does something: its name, which is its feature's too, its value."""
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if value is not None and value != NEUTRAL.get(parameter.name):
                yield parameter.name, value

    def for_engine(self, features: frozenset[Feature] | None) -> Sampling:
        """Without what the engine lacks and what does nothing: such an engine takes no word of it.

        `features` is None where the engine has not told; then nothing is left out.
        """
        if features is None:
            return self
        wanted = dict(self.wanted())
        return Sampling(
            **{
                parameter.name: getattr(self, parameter.name)
                for parameter in fields(self)
                if parameter.name in wanted or Feature(parameter.name) in features
            }
        )


def profile_of(request: TaskRequest) -> str | None:
    """The version of the profile that a task is sampled by; None: by none.

    A strict task depends on no engine's own defaults, so that one which names no
    profile has one all the same.
    """
    if request.sampler_profile_version is not None:
        return request.sampler_profile_version
    return DEFAULT_STRICT if request.determinism == "strict" else None


def sampling_of(request: TaskRequest, profiles: Profiles) -> Sampling:
    """What is asked of the engine: a field of the request wins over its profile.

    Raises:
        ProfileUnknown: there is no profile of the version it names.
    """
    version = profile_of(request)
    asked = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if version is None:
        return Sampling(**given)  # type: ignore[arg-type]
    profile = profiles.get(version)
    if profile is None:
        raise ProfileUnknown(version, sorted(profiles))
    return Sampling(**profile.model_dump() | given)
