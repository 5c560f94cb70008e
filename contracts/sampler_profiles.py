"""A sampler profile: a named, versioned set of sampling parameters that never changes.

`sampler_profiles/NAME-VERSION.yaml` beside this module are those every instance
has.  Equal output is promised for an equal version, so a file that was once
shipped is not edited: what should be otherwise gets the next version.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from contracts.model import Contract

SHIPPED = Path(__file__).with_name("sampler_profiles")
PROFILE_VERSION_PATTERN = r"^[a-z][a-z0-9_]{0,31}-[1-9][0-9]{0,5}$"
DEFAULT_STRICT = "balanced-1"
"""Of a strict task that names none: it may depend on no engine's own defaults."""


class SamplerProfile(Contract):
    """Every parameter by which a token is picked; none is left to an engine."""

    temperature: float = Field(ge=0.0, le=5.0, allow_inf_nan=False, description="0 is greedy.")
    top_p: float = Field(
        gt=0.0, le=1.0, allow_inf_nan=False, description="Nucleus mass; 1 keeps all."
    )
    top_k: int = Field(ge=0, le=1_000_000, description="Candidates kept; 0 keeps all.")
    min_p: float = Field(
        ge=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="Candidates under this share of the likeliest go; 0 keeps all.",
    )
    repetition_penalty: float = Field(
        gt=0.0, le=2.0, allow_inf_nan=False, description="Divides scores of used tokens; 1: none."
    )
    presence_penalty: float = Field(
        ge=-2.0, le=2.0, allow_inf_nan=False, description="Taken from used tokens once; 0: none."
    )
    frequency_penalty: float = Field(
        ge=-2.0, le=2.0, allow_inf_nan=False, description="Taken for each use of a token; 0: none."
    )
