"""Refs: one reading each, and nothing that is no model."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_managerd.models.refs import (
    FileRef,
    HfRef,
    HttpsRef,
    OciRef,
    RefInvalid,
    S3Ref,
    parse,
    source_key,
    split_names,
)

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        ("file:/m/x.gguf", FileRef(Path("/m/x.gguf"))),
        ("file:///m/x.gguf", FileRef(Path("/m/x.gguf"))),
        ("https://h.example/a/x.gguf?token=1", HttpsRef("https://h.example/a/x.gguf?token=1")),
        ("hf:o/r/x.gguf", HfRef("o/r", "x.gguf")),
        ("hf:o/r/Q4/x.gguf@refs/pr/1", HfRef("o/r", "Q4/x.gguf", "refs/pr/1")),
        ("s3:bucket/a/x.gguf", S3Ref("bucket", "a/x.gguf")),
        ("s3://bucket/x.gguf", S3Ref("bucket", "x.gguf")),
        ("oci:r.example:5000/ai/m:q4", OciRef("r.example:5000", "ai/m", "q4")),
        ("oci:r.example/m", OciRef("r.example", "m", "latest")),
        (f"oci:r.example/m@{DIGEST}", OciRef("r.example", "m", DIGEST)),
    ],
)
def test_a_ref_is_read_into_its_parts(ref: str, value: object) -> None:
    """LO-POOL-110."""
    assert parse(ref) == value


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("", "a ref starts with"),
        ("ftp://h/x", "a ref starts with"),
        ("file:/a\0b", "NUL"),
        ("https:h/x", "use https://host/path"),
        ("https://h", "names no file"),
        ("https://user:secret@h/x", "no user"),
        ("https://h/x#f", "fragment"),
        ("https://h/a b", "space"),
        ("https://h:0/x", "no host"),
        ("https://h:99999/x", "no URL"),
        ("https://h/a\\..\\b", "names no file"),
        ("hf:o/x.gguf", "use hf:OWNER/REPO/FILE"),
        ("hf:o/r/../x", "each part of its path"),
        ("hf:o/../x", "the owner and the repository"),
        ("hf:o/r//abs", "each part of its path"),
        ("hf:o/r/a\\..\\b", "each part of its path"),
        ("hf:o/r/a\0", "space"),
        ("hf:o/r/a\n", "space"),
        (f"hf:o/r/{'x' * 300}", "each part of its path"),
        ("hf:o/r/x@", "no revision"),
        ("hf:o/r/x@a/../b", "no revision"),
        ("s3:B/x", "a bucket is"),
        ("s3:bucket/", "each part of its path"),
        ("s3:bucket/../x", "each part of its path"),
        ("oci:r.example/Up:q", "lower-case"),
        ("oci:r.example/m:.q", "no tag"),
        (f"oci:r.example/m@{DIGEST}0", "64 lower-case hex"),
        (f"https://h/{'x' * 5000}", "longer than"),
    ],
)
def test_what_is_no_model_is_refused_with_the_reason(ref: str, words: str) -> None:
    """LO-POOL-110."""
    with pytest.raises(RefInvalid) as refused:
        parse(ref)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


@given(st.sampled_from(["hf:o/r/", "s3:bucket/", "oci:r.example/", "https://h/"]), st.text())
def test_no_text_makes_a_path_that_climbs(start: str, rest: str) -> None:
    """LO-POOL-110: nor any other exception than the one that says what is wrong."""
    try:
        value = parse(start + rest)
    except RefInvalid:
        return
    if isinstance(value, HfRef | S3Ref):
        path = value.filename if isinstance(value, HfRef) else value.key
        assert not {"", ".", ".."} & set(path.split("/"))
        assert "\\" not in path
    assert len(source_key(start + rest)) == 64


def test_a_split_model_is_all_of_its_files() -> None:
    assert split_names("x.gguf") == ("x.gguf",)
    names = split_names("d/x-00001-of-00002.gguf")
    assert names == ("d/x-00001-of-00002.gguf", "d/x-00002-of-00002.gguf")
    for wrong in ("x-00002-of-00002.gguf", "x-00001-of-00000.gguf", "x-00001-of-09999.gguf"):
        with pytest.raises(RefInvalid):
            split_names(wrong)
