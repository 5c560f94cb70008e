"""`oci:` refs: models kept as artifacts in a container registry.

The pull of the OCI distribution specification 1.1: a manifest by tag or digest,
then the blob of the layer that holds the model, by digest.  A registry that wants
a token names where to ask for one; the login goes there only if that is the
registry's own host, or a host that is listed by its name (CVE-2020-15157,
CVE-2025-51471: a registry had it sent elsewhere).
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any, TypeVar

import aiohttp
import anyio.to_thread
import msgspec
from yarl import URL

from contracts.config import Downloads
from contracts.ids import DIGEST_PATTERN
from contracts.pools import FailureReason
from contracts.service.address_guard import literal
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.download_policy import Origin
from pool_managerd.models.guarded_client import GuardedClient, judge
from pool_managerd.models.refs import OciRef, RefInvalid, split_names
from pool_managerd.models.remote import Credentials, Remote, failed, shown
from pool_managerd.models.secret_files import secret_pair

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MODEL_TYPES = ("application/vnd.ollama.image.model",)
TITLE = "org.opencontainers.image.title"
LAYERS_MAX = 1024
SIZE_MAX = 2**53

T = TypeVar("T")

_DIGEST = re.compile(DIGEST_PATTERN)
_PARAMETER = re.compile(r'([A-Za-z]{1,32})="([^"\\]{0,1024})"')
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")


class _Descriptor(msgspec.Struct):
    digest: str
    size: int
    mediaType: str = ""  # noqa: N815  (the wire's name)
    annotations: dict[str, str] | None = None


class _Manifest(msgspec.Struct):
    layers: list[_Descriptor] = []
    manifests: list[_Descriptor] = []


async def oci_remotes(
    ref: OciRef, downloads: Downloads, client: GuardedClient
) -> tuple[Remote, ...]:
    """The blobs of the model.

    Raises:
        LaunchRefused, Interrupted: as the client, or the artifact holds no model.
    """
    return await _Pull(ref, downloads, client).remotes()


class _Pull:
    def __init__(self, ref: OciRef, downloads: Downloads, client: GuardedClient) -> None:
        # A registry on this very machine has no certificate.
        address = literal(ref.registry.rpartition(":")[0] or ref.registry)
        scheme = "http" if address is not None and address.is_loopback else "https"
        self._base = URL(f"{scheme}://{ref.registry}")
        self._name = f"{ref.registry}/{ref.repository}"
        self._ref = ref
        self._oci = downloads.oci
        self._client = client
        self._credentials: Credentials | None = None

    async def remotes(self) -> tuple[Remote, ...]:
        manifest = await self._manifest(self._ref.reference)
        if manifest.manifests and not manifest.layers:
            if len(manifest.manifests) != 1:
                raise failed(
                    f"{self._name}: {len(manifest.manifests)} artifacts for several platforms;"
                    " name one by @sha256:…"
                )
            manifest = await self._manifest(manifest.manifests[0].digest)
        return tuple(self._remote(layer) for layer in _model_layers(self._name, manifest.layers))

    def _remote(self, layer: _Descriptor) -> Remote:
        if not _DIGEST.fullmatch(layer.digest) or not 0 < layer.size < SIZE_MAX:
            raise failed(f"{self._name}: its manifest has a layer of no known digest or size")
        title = (layer.annotations or {}).get(TITLE, layer.digest)
        return Remote(
            self._url("blobs", layer.digest),
            f"{self._ref.repository}/{title}",
            digest=layer.digest,
            size=layer.size,
            credentials=self._credentials,
        )

    async def _manifest(self, reference: str) -> _Manifest:
        url = self._url("manifests", reference)
        headers = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
        response, body = await self._client.document(url, headers, self._credentials)
        if response.status == 401 and self._credentials is None:
            self._credentials = await self._login(response)
            response, body = await self._client.document(url, headers, self._credentials)
        judge(response, f"{self._name}:{reference}", 200)
        if reference.startswith("sha256:"):
            found = f"sha256:{hashlib.sha256(body).hexdigest()}"
            if found != reference:
                raise LaunchRefused(
                    FailureReason.MODEL_INVALID,
                    f"{self._name}: its manifest has {found}, and {reference} was asked for",
                )
        return _read(self._name, body, _Manifest)

    async def _login(self, response: aiohttp.ClientResponse) -> Credentials:
        """What the registry takes, after its 401 said how to come by it."""
        origin = Origin.of(self._base)
        challenge = response.headers.get("WWW-Authenticate", "")
        scheme, _, rest = challenge.partition(" ")
        login = await self._login_header()
        if scheme.lower() == "basic" and login is not None:
            return Credentials(origin, lambda *_: {"Authorization": login})
        asked = dict(_PARAMETER.findall(rest[:4096]))
        if scheme.lower() != "bearer" or "realm" not in asked:
            raise failed(
                f"{self._name}: the registry wants a login; set policy.downloads.oci.registry and"
                " oci.login_file"
            )
        return Credentials.bearer(origin, await self._token(asked, login))

    async def _token(self, asked: dict[str, str], login: str | None) -> str:
        try:
            realm = URL(asked["realm"])
        except ValueError:
            raise failed(f"{self._name}: the registry names no URL to ask for a token") from None
        query: dict[str, str] = {key: asked[key] for key in asked if key in ("service", "scope")}
        url = realm.update_query(query).with_fragment(None)
        credentials = None
        if login is not None:
            self._check_realm(realm)
            credentials = Credentials(Origin.of(realm), lambda *_: {"Authorization": login})
        response, body = await self._client.document(url, {}, credentials)
        judge(response, f"a token for {self._name}", 200)
        answer = _read(shown(realm), body, dict[str, Any])
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise failed(f"{shown(realm)}: its answer holds no token")
        return token

    def _check_realm(self, realm: URL) -> None:
        """Raise where the login must not be sent."""
        host = (realm.raw_host or "").lower()
        own = host == self._base.raw_host and realm.scheme == self._base.scheme
        if not own and not self._client.policy.lists(host, exactly=True):
            raise LaunchRefused(
                FailureReason.DOWNLOAD_DENIED,
                f"{self._name}: the registry wants the login to be sent to {host}; add that host"
                " by its name to policy.downloads.hosts if it is to be trusted with it",
            )

    async def _login_header(self) -> str | None:
        """The login in the form of Basic, where one is configured for this registry."""
        oci = self._oci
        if oci.login_file is None or oci.registry != self._ref.registry:
            return None
        user, password = await anyio.to_thread.run_sync(
            secret_pair, "policy.downloads.oci.login_file", oci.login_file, "USER:PASSWORD"
        )
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"

    def _url(self, kind: str, reference: str) -> URL:
        return self._base.with_path(f"/v2/{self._ref.repository}/{kind}/{reference}")


def _model_layers(name: str, layers: list[_Descriptor]) -> list[_Descriptor]:
    """The layers that hold the model: a split one by title, else GGUF, else the only one."""
    if len(layers) > LAYERS_MAX:
        raise failed(f"{name}: more than {LAYERS_MAX} layers")
    found = [layer for layer in layers if _is_gguf(layer)]
    if not found and len(layers) == 1:
        found = layers
    if len(found) < 2:
        if found:
            return found
        raise failed(f"{name}: none of its {len(layers)} layers is marked as a GGUF model")
    titles = {(layer.annotations or {}).get(TITLE, ""): layer for layer in found}
    try:
        names = split_names(min(titles))
    except RefInvalid as error:
        raise failed(f"{name}: {error}") from error
    if set(names) != set(titles):
        raise failed(f"{name}: {len(found)} layers hold models; the ref must name one model")
    return [titles[part] for part in names]


def _is_gguf(layer: _Descriptor) -> bool:
    title = (layer.annotations or {}).get(TITLE, "")
    kind = layer.mediaType
    return "gguf" in kind.lower() or kind in MODEL_TYPES or title.endswith(".gguf")


def _read(name: str, body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise failed(f"{name}: its answer cannot be read: {error}") from error
