"""Sampler profiles: the shipped ones never change, and a bad file is told by its path."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from contracts.sampler_profiles import DEFAULT_STRICT, SHIPPED
from contracts.service.config_source import ConfigError
from contracts.service.sampler_profiles import OWN, load_sampler_profiles

DIGESTS = {
    "balanced-1": "961e7f2e42f658a9bdae1898064138c93686e988bda9e750e4eb76b3a176d502",
    "creative-1": "d448b50b6b93bc08011d381c81bef8acda9fba5b2d8ca3616bc8842e3a5d2882",
    "greedy-1": "fc1040fe4ea3afb8655c8673ae3192b036fda973ee16cedca6fe744d2b335da5",
}
CALM = """
temperature: 0.3
top_p: 0.9
top_k: 20
min_p: 0
repetition_penalty: 1
presence_penalty: 0
frequency_penalty: 0
"""


def own(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / OWN / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_sampler_profiles(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_shipped_profile_never_changes() -> None:
    """LO-ORC-176: a change of one needs a new version, and so does this test never change."""
    found = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in SHIPPED.iterdir()}
    assert {name: found.get(name) for name in DIGESTS} == DIGESTS
    assert found.keys() == DIGESTS.keys(), "a new version is added here, with its digest"


def test_what_is_shipped_can_be_asked_for(tmp_path: Path) -> None:
    """LO-ORC-176."""
    profiles = load_sampler_profiles(tmp_path / "there is no such directory")
    assert profiles.keys() == DIGESTS.keys()
    assert DEFAULT_STRICT in profiles
    assert profiles["greedy-1"].temperature == 0


def test_an_operator_adds_profiles(tmp_path: Path) -> None:
    """LO-ORC-177."""
    own(tmp_path, "calm-12.yaml", CALM)
    own(tmp_path, "README", "not a profile, and not read")
    profiles = load_sampler_profiles(tmp_path)
    assert (profiles["calm-12"].top_k, profiles["calm-12"].temperature) == (20, 0.3)
    assert profiles.keys() - DIGESTS.keys() == {"calm-12"}


def test_a_shipped_profile_cannot_be_replaced(tmp_path: Path) -> None:
    """LO-ORC-177."""
    path = own(tmp_path, "greedy-1.yaml", CALM)
    assert refusal(tmp_path).startswith(f"{path}: greedy-1 is shipped and never changes;")


@pytest.mark.parametrize("name", ["calm.yaml", "calm-0.yaml", "Calm-1.yaml", "-1.yaml", "1-1.yaml"])
def test_a_name_says_its_version(tmp_path: Path, name: str) -> None:
    """LO-ORC-177."""
    path = own(tmp_path, name, CALM)
    assert refusal(tmp_path).startswith(f"{path}: a profile is named NAME-VERSION.yaml")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must hold keys and values"),
        ("- a\n", "must hold keys and values"),
        ("temperature: [\n", "line 2"),
        (CALM + "typical_p: 1\n", "typical_p: unknown key"),
        (CALM.replace("top_k: 20\n", ""), "top_k: required"),
        ("temperature: 0.3\n", "top_p: required (and 5 more: top_k, min_p, repetition_penalty, …)"),
        (CALM.replace("20", "-1"), "top_k: Input should be greater than or equal to 0"),
        (CALM.replace("0.3", "hot"), "temperature: Input should be a valid number"),
        (CALM.replace("top_p: 0.9", "top_p: 0"), "top_p: Input should be greater than 0"),
        (CALM + "top_k: 3\n", "the key `top_k` is repeated"),
    ],
)
def test_a_bad_file_is_told_by_its_path(tmp_path: Path, text: str, why: str) -> None:
    """LO-ORC-177."""
    path = own(tmp_path, "calm-1.yaml", text)
    message = refusal(tmp_path)
    assert message.startswith(f"{path}: ")
    assert why in message


def test_what_is_no_file_is_no_profile(tmp_path: Path) -> None:
    """LO-ORC-177."""
    (tmp_path / OWN / "calm-1.yaml").mkdir(parents=True)
    assert refusal(tmp_path) == f"{tmp_path / OWN / 'calm-1.yaml'}: cannot be read: Is a directory"
