"""`hf:` refs: files of a Hugging Face repository, or of a mirror that speaks the same.

`HEAD {endpoint}/{repo}/resolve/{revision}/{file}` tells the commit the revision
stands for (X-Repo-Commit), and of a large file its sha256 (X-Linked-Etag) and size
(X-Linked-Size), before it redirects to where the bytes are.  The bytes are then
asked for by that commit, so that a branch that moves meanwhile mixes nothing.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import anyio.to_thread
from yarl import URL

from contracts.config import Downloads
from contracts.ids import DIGEST_PATTERN
from pool_managerd.models.download_policy import Origin
from pool_managerd.models.guarded_client import GuardedClient, judge
from pool_managerd.models.refs import HfRef, split_names
from pool_managerd.models.remote import Credentials, Remote
from pool_managerd.models.secret_files import secret_text

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(DIGEST_PATTERN)
_SIZE = re.compile(r"[0-9]{1,16}")


async def hf_remotes(ref: HfRef, downloads: Downloads, client: GuardedClient) -> tuple[Remote, ...]:
    """The files of the model, at one commit.

    Raises:
        LaunchRefused, Interrupted: as the client.
    """
    endpoint = downloads.hf_endpoint.rstrip("/")
    credentials = None
    if downloads.hf_token_file is not None:
        token = await anyio.to_thread.run_sync(
            secret_text, "policy.downloads.hf_token_file", downloads.hf_token_file
        )
        credentials = Credentials.bearer(Origin.of(URL(endpoint)), token)
    remotes: list[Remote] = []
    revision = ref.revision
    for filename in split_names(ref.filename):
        remote, commit = await _head(ref.repo, revision, filename, endpoint, credentials, client)
        revision = commit or revision
        remotes.append(remote)
    return tuple(remotes)


async def _head(
    repo: str,
    revision: str,
    filename: str,
    endpoint: str,
    credentials: Credentials | None,
    client: GuardedClient,
) -> tuple[Remote, str | None]:
    url = _url(endpoint, repo, revision, filename)
    name = f"{repo}/{filename}"
    async with client.opened("HEAD", url, None, credentials, follow=False) as response:
        judge(response, name, 200, 301, 302, 303, 307, 308)
        headers = response.headers
        commit = headers.get("X-Repo-Commit", "")
        etag = headers.get("X-Linked-Etag", "").strip('"')
        size = headers.get("X-Linked-Size", "")
    pinned = commit if _COMMIT.fullmatch(commit) else None
    remote = Remote(
        _url(endpoint, repo, pinned or revision, filename),
        name,
        digest=f"sha256:{etag}" if _DIGEST.fullmatch(f"sha256:{etag}") else None,
        size=int(size) if _SIZE.fullmatch(size) else None,
        credentials=credentials,
    )
    return remote, pinned


def _url(endpoint: str, repo: str, revision: str, filename: str) -> URL:
    path = f"{repo}/resolve/{quote(revision, safe='')}/{quote(filename)}"
    return URL(f"{endpoint}/{path}", encoded=True)
