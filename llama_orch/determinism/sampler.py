"""What a sampler profile sets, and the sha256 of its file, as a proof tells it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from contracts.proofs import ProvenSampler
from contracts.sampler_profiles import SHIPPED, SamplerProfile
from contracts.service.settings import ConfigError, load_sampler_profiles, read_config, state_dir_of

OWN = "sampler_profiles"
"""The directory of an operator's own, under the state directory."""
NOWHERE = Path("/nonexistent")


def shipped_samplers() -> dict[str, ProvenSampler]:
    """Every profile that comes with this version."""
    return {
        version: _proven(version, values, SHIPPED)
        for version, values in load_sampler_profiles(NOWHERE).items()
    }


def sampler_in_use(version: str, config: Path | None) -> ProvenSampler:
    """The profile `version`: shipped, or from the configured state directory.

    Of a profile that is neither, as on another machine, only the version is told.
    """
    found = shipped_samplers().get(version)
    if found is not None:
        return found
    try:
        settings, _ = read_config(config, missing_ok=True)
        state_dir = state_dir_of(settings)
        profiles: Mapping[str, SamplerProfile] = load_sampler_profiles(state_dir)
    except (ConfigError, OSError):
        profiles, state_dir = {}, NOWHERE
    values = profiles.get(version)
    if values is None:
        return ProvenSampler(version=version, values=None, sha256=None)
    return _proven(version, values, state_dir / OWN)


def _proven(version: str, values: SamplerProfile, directory: Path) -> ProvenSampler:
    content = (directory / f"{version}.yaml").read_bytes()
    return ProvenSampler(
        version=version, values=values, sha256=f"sha256:{hashlib.sha256(content).hexdigest()}"
    )
