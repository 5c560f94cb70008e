"""`hf:`, `s3:` and `oci:` against small servers that speak them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from test_harness.downloads import Downloading, content_of, downloading, sha256, under
from test_harness.model_server import ModelServer

pytestmark = pytest.mark.anyio
R = FailureReason
ONE, TWO = content_of(70_000, 1), content_of(90_000, 2)
COMMIT = "c" * 40


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer().serving() as it:
        yield it


@pytest.fixture
async def cdn() -> AsyncIterator[ModelServer]:
    async with ModelServer(files={"/one": ONE, "/two": TWO}).serving() as it:
        yield it


def secret(tmp_path: Path, text: str) -> str:
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def readable_by_all(path: Path) -> None:
    path.chmod(0o644)


async def refusal(it: Downloading, ref: str, digest: str | None = None) -> tuple[R, str]:
    with pytest.raises(LaunchRefused) as refused:
        await it.resolve(ref, digest)
    return refused.value.failure.reason, refused.value.failure.message


def hub(server: ModelServer, cdn: ModelServer, name: str, content: bytes, to: str) -> None:
    """A file of a repository, at its branch and at its commit."""
    for revision in ("main", COMMIT):
        path = f"/o/r/resolve/{revision}/{name}"
        server.redirects[path] = f"{cdn.url}{to}?signature=1"
        server.headers[path] = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{sha256(content)[7:]}"',
            "X-Linked-Size": str(len(content)),
        }


async def test_a_file_of_a_hub_is_fetched_at_one_commit_and_the_token_stays_there(
    server: ModelServer, cdn: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-112, LO-POOL-118."""
    hub(server, cdn, "tiny.gguf", ONE, "/one")
    changes = {"hf_endpoint": server.url, "hf_token_file": secret(tmp_path, "hf_secret")}
    async with downloading(tmp_path / "s", changes) as it:
        path = await it.resolve("hf:o/r/tiny.gguf", sha256(ONE))
        assert path.read_bytes() == ONE
        assert await it.resolve("hf:o/r/tiny.gguf@main", None) == path, "the same bytes"
    assert [(seen.method, seen.path) for seen in server.seen] == [
        ("HEAD", "/o/r/resolve/main/tiny.gguf"),
        ("GET", f"/o/r/resolve/{COMMIT}/tiny.gguf"),
        ("HEAD", "/o/r/resolve/main/tiny.gguf"),
    ]
    assert {seen.headers["Authorization"] for seen in server.seen} == {"Bearer hf_secret"}
    assert len(cdn.seen) == 1
    assert "Authorization" not in cdn.seen[0].headers


async def test_a_hub_that_says_another_digest_is_not_fetched_from(
    server: ModelServer, cdn: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-115."""
    hub(server, cdn, "tiny.gguf", ONE, "/one")
    async with downloading(tmp_path, {"hf_endpoint": server.url}) as it:
        reason, message = await refusal(it, "hf:o/r/tiny.gguf", sha256(TWO))
        assert (reason, cdn.seen) == (R.MODEL_INVALID, [])
        assert sha256(ONE) in message
        assert sha256(TWO) in message
        hub(server, cdn, "tiny.gguf", ONE, "/two")
        assert "announces 90000 bytes" in (await refusal(it, "hf:o/r/tiny.gguf"))[1]


async def test_a_split_model_lies_side_by_side(
    server: ModelServer, cdn: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-118."""
    hub(server, cdn, "q/m-00001-of-00002.gguf", ONE, "/one")
    hub(server, cdn, "q/m-00002-of-00002.gguf", TWO, "/two")
    async with downloading(tmp_path, {"hf_endpoint": server.url}) as it:
        path = await it.resolve("hf:o/r/q/m-00001-of-00002.gguf")
        assert path.name == "model-00001-of-00002.gguf"
        assert (path.read_bytes(), (path.parent / "model-00002-of-00002.gguf").read_bytes()) == (
            ONE,
            TWO,
        )
        reason, message = await refusal(it, "hf:o/r/q/m-00002-of-00002.gguf")
    assert reason is R.BAD_ARGUMENT
    assert "name part 00001" in message


async def test_a_token_file_others_can_read_is_refused(server: ModelServer, tmp_path: Path) -> None:
    path = Path(secret(tmp_path, "hf_secret"))
    readable_by_all(path)
    changes = {"hf_endpoint": server.url, "hf_token_file": str(path)}
    async with downloading(tmp_path / "s", changes) as it:
        reason, message = await refusal(it, "hf:o/r/tiny.gguf")
    assert reason is R.BAD_ARGUMENT
    assert "policy.downloads.hf_token_file" in message
    assert server.seen == []


async def test_an_object_is_asked_for_with_a_signature_that_stays_with_its_store(
    server: ModelServer, cdn: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-112, LO-POOL-118."""
    server.files["/bucket/a/m.gguf"] = ONE
    server.redirects["/bucket/moved.gguf"] = f"{cdn.url}/two"
    keys = secret(tmp_path, "AKID:secret/key")
    changes: dict[str, Any] = {"s3": {"endpoint": server.url, "access_key_file": keys}}
    async with downloading(tmp_path / "s", changes) as it:
        assert (await it.resolve("s3:bucket/a/m.gguf")).read_bytes() == ONE
        assert (await it.resolve("s3:bucket/moved.gguf")).read_bytes() == TWO
    authorization = server.seen[0].headers["Authorization"]
    assert authorization.startswith("AWS4-HMAC-SHA256 Credential=AKID/")
    assert "secret" not in authorization
    sent = {name.lower() for name in cdn.seen[0].headers}
    assert not sent & {"authorization", "x-amz-date", "x-amz-content-sha256"}
    changes = {"s3": {"endpoint": server.url}}
    async with downloading(tmp_path / "t", changes) as it:
        await it.resolve("s3:bucket/a/m.gguf")
    assert "Authorization" not in server.seen[-1].headers


def registry(
    server: ModelServer, *layers: tuple[str, bytes, str], name: str = "ai/m", tag: str = "q4"
) -> str:
    """An artifact of (media type, content, title); the digest of its manifest."""
    described = []
    for kind, content, title in layers:
        server.files[f"/v2/{name}/blobs/{sha256(content)}"] = content
        described.append(
            {
                "mediaType": kind,
                "digest": sha256(content),
                "size": len(content),
                "annotations": {"org.opencontainers.image.title": title},
            }
        )
    manifest = json.dumps({"schemaVersion": 2, "layers": described}).encode()
    for reference in (tag, sha256(manifest)):
        server.files[f"/v2/{name}/manifests/{reference}"] = manifest
    return sha256(manifest)


GGUF = "application/vnd.docker.ai.gguf.v3"
LICENSE = ("text/plain", b"MIT", "LICENSE")


@pytest.mark.parametrize(
    "title", ["m.gguf", "../../../x.gguf", "/abs", "a\\..\\b", "a\0b", "x" * 300]
)
async def test_an_artifact_is_fetched_by_digest_whatever_its_title(
    server: ModelServer, tmp_path: Path, title: str
) -> None:
    """LO-POOL-116, LO-POOL-117, LO-POOL-118: a remote name is never a path here."""
    digest = registry(server, LICENSE, (GGUF, ONE, title))
    around = set(under(tmp_path, "*"))
    async with downloading(tmp_path / "s") as it:
        path = await it.resolve(f"oci:{server.address}/ai/m:q4")
        assert path.read_bytes() == ONE
        assert path.parent == tmp_path / "s/models/blobs" / sha256(ONE)[7:]
        assert await it.resolve(f"oci:{server.address}/ai/m@{digest}") == path
    assert len(server.bodies(f"/v2/ai/m/blobs/{sha256(ONE)}")) == 1
    made = set(under(tmp_path, "*")) - around
    assert all(path.is_relative_to(tmp_path / "s") for path in made)


async def test_a_split_artifact_and_ones_without_a_model(
    server: ModelServer, tmp_path: Path
) -> None:
    """LO-POOL-118."""
    split = [(GGUF, TWO, "m-00002-of-00002.gguf"), (GGUF, ONE, "m-00001-of-00002.gguf")]
    registry(server, *split)
    registry(server, LICENSE, LICENSE, tag="none")
    registry(server, (GGUF, ONE, "a.gguf"), (GGUF, TWO, "b.gguf"), tag="two")
    server.files["/v2/ai/m/manifests/bad"] = b"{"
    forged = f"sha256:{'0' * 64}"
    server.files[f"/v2/ai/m/manifests/{forged}"] = server.files["/v2/ai/m/manifests/q4"]
    wild = {"layers": [{"digest": "sha256:../../x", "size": 5, "mediaType": GGUF}]}
    server.files["/v2/ai/m/manifests/wild"] = json.dumps(wild).encode()
    base = f"oci:{server.address}/ai/m"
    async with downloading(tmp_path) as it:
        path = await it.resolve(f"{base}:q4")
        assert (path.parent / "model-00002-of-00002.gguf").read_bytes() == TWO
        assert "none of its 2 layers" in (await refusal(it, f"{base}:none"))[1]
        assert "must name one model" in (await refusal(it, f"{base}:two"))[1]
        assert "cannot be read" in (await refusal(it, f"{base}:bad"))[1]
        assert "no known digest" in (await refusal(it, f"{base}:wild"))[1]
        assert (await refusal(it, f"{base}@{forged}"))[0] is R.MODEL_INVALID
        assert "answered 404" in (await refusal(it, f"{base}:missing"))[1]


@pytest.mark.parametrize("listed", [True, False])
async def test_a_login_goes_to_the_registry_or_where_it_is_listed(
    server: ModelServer, cdn: ModelServer, tmp_path: Path, listed: bool
) -> None:
    """LO-POOL-112: the token that comes back goes to the registry alone."""
    registry(server, (GGUF, ONE, "m.gguf"))
    manifest = "/v2/ai/m/manifests/q4"
    server.statuses[manifest] = 401
    realm = f"{cdn.url}/token" if listed else "https://auth.evil.example/token"
    server.headers[manifest] = {
        "WWW-Authenticate": f'Bearer realm="{realm}",service="r",scope="pull"'
    }
    cdn.files["/token"] = b'{"token":"short-lived"}'
    server.redirects[f"/v2/ai/m/blobs/{sha256(ONE)}"] = f"{cdn.url}/one"
    oci = {"registry": server.address, "login_file": secret(tmp_path, "user:word")}
    changes = {"hosts": ["127.0.0.1", "*.evil.example"], "oci": oci}
    async with downloading(tmp_path / "s", changes) as it:
        reason, message = await refusal(it, f"oci:{server.address}/ai/m:q4")
        if not listed:
            assert reason is R.DOWNLOAD_DENIED
            assert "wants the login to be sent to auth.evil.example" in message
            return
        assert "answered 401" in message, "it was asked with the token, and refused that too"
        assert server.seen[-1].headers["Authorization"] == "Bearer short-lived"
        basic = f"Basic {base64.b64encode(b'user:word').decode()}"
        assert cdn.seen[0].headers["Authorization"] == basic
        del server.statuses[manifest]
        assert (await it.resolve(f"oci:{server.address}/ai/m:q4")).read_bytes() == ONE
    assert "Authorization" not in cdn.seen[-1].headers
