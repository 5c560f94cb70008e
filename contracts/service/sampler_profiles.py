"""The sampler profiles of an instance: those that are shipped, and the operator's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
from pydantic import ValidationError

from contracts.sampler_profiles import PROFILE_VERSION_PATTERN, SHIPPED, SamplerProfile
from contracts.service.config_source import ConfigError, file_text, first_line, parse_yaml

OWN = "sampler_profiles"
"""The directory of the operator's own, under `state_dir`."""
PROFILES_MAX = 1000


def load_sampler_profiles(state_dir: Path) -> Mapping[str, SamplerProfile]:
    """Every profile by its version, as `NAME-1`.

    Raises:
        ConfigError: a file is not a profile, or takes the name of a shipped one.
    """
    profiles = dict(_profiles(SHIPPED))
    for version, profile in _profiles(state_dir / OWN):
        if version in profiles:
            raise ConfigError(
                f"{state_dir / OWN / version}.yaml: {version} is shipped and never changes;"
                " give yours another name or version"
            )
        profiles[version] = profile
        if len(profiles) > PROFILES_MAX:
            raise ConfigError(f"{state_dir / OWN}: more than {PROFILES_MAX} profiles; remove some")
    return MappingProxyType(profiles)


def _profiles(directory: Path) -> Iterator[tuple[str, SamplerProfile]]:
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == ".yaml")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be read: {error.strerror}") from error
    for path in files:
        if re.fullmatch(PROFILE_VERSION_PATTERN, path.stem) is None:
            raise ConfigError(
                f"{path}: a profile is named NAME-VERSION.yaml, such as calm-1.yaml: a word in"
                " small letters and a number from 1"
            )
        yield path.stem, _profile(path)


def _profile(path: Path) -> SamplerProfile:
    tree = parse_yaml(file_text(path), str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the file must hold keys and values, such as `top_k: 0`")
    try:
        return SamplerProfile.model_validate_json(msgspec.json.encode(tree))
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_line(error, tree)}") from error
