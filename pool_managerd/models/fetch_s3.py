"""`s3:` refs: objects of Amazon S3, or of a store that speaks the same.

Requests are signed by Signature Version 4 [1], written out here because it is
thirty lines of HMAC; without a key file they are sent unsigned, for public buckets.

[1] https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

import anyio.to_thread
from yarl import URL

from contracts.config import Downloads
from pool_managerd.models.download_policy import Origin
from pool_managerd.models.refs import S3Ref, split_names
from pool_managerd.models.remote import Credentials, Remote
from pool_managerd.models.secret_files import secret_pair

_NO_BODY = hashlib.sha256(b"").hexdigest()
_SIGNED = frozenset({"range"})
"""Of the headers a request has anyway, those that are signed too."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Signature4:
    """Signs the requests of one key; `now` gives the time of a request, in UTC."""

    access_key_id: str
    secret_key: str = field(repr=False)
    region: str
    now: Callable[[], datetime] = _now

    def __call__(self, method: str, url: URL, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers that sign a request without a body and without a query."""
        moment = self.now()
        stamp, day = moment.strftime("%Y%m%dT%H%M%SZ"), moment.strftime("%Y%m%d")
        signed = {name.lower(): value for name, value in headers.items()}
        signed = {name: value for name, value in signed.items() if name in _SIGNED}
        signed |= {
            "host": _host_header(url),
            "x-amz-content-sha256": _NO_BODY,
            "x-amz-date": stamp,
        }
        names = ";".join(sorted(signed))
        lines = "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed))
        request = "\n".join((method, url.raw_path, "", lines, names, _NO_BODY))
        scope = f"{day}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        key = f"AWS4{self.secret_key}".encode()
        for part in (day, self.region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"{self.access_key_id}/{scope}"
        return {
            "x-amz-content-sha256": _NO_BODY,
            "x-amz-date": stamp,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={credential},"
            f"SignedHeaders={names},Signature={signature}",
        }


async def s3_remotes(ref: S3Ref, downloads: Downloads) -> tuple[Remote, ...]:
    """The objects of the model.

    Raises:
        LaunchRefused: the key file cannot be used.
    """
    base, s3 = _base(ref, downloads), downloads.s3
    credentials = None
    if s3.access_key_file is not None:
        key_id, secret_key = await anyio.to_thread.run_sync(
            secret_pair,
            "policy.downloads.s3.access_key_file",
            s3.access_key_file,
            "ACCESS_KEY_ID:SECRET_KEY",
        )
        sign = Signature4(key_id, secret_key, s3.region)
        credentials = Credentials(Origin.of(URL(base)), sign)
    folder, slash, name = ref.key.rpartition("/")
    return tuple(
        Remote(
            # S3 signs the path encoded once, with `/` as the only character left alone.
            URL(f"{base}/{quote(folder + slash + part, safe='/-._~')}", encoded=True),
            f"{ref.bucket}/{folder}{slash}{part}",
            credentials=credentials,
        )
        for part in split_names(name)
    )


def _base(ref: S3Ref, downloads: Downloads) -> str:
    """Where the bucket's keys begin; a bucket with a dot fits no TLS certificate as a host."""
    s3 = downloads.s3
    if s3.endpoint is not None:
        return f"{s3.endpoint.rstrip('/')}/{ref.bucket}"
    host = f"s3.{s3.region}.amazonaws.com"
    return f"https://{host}/{ref.bucket}" if "." in ref.bucket else f"https://{ref.bucket}.{host}"


def _host_header(url: URL) -> str:
    host = url.raw_host or ""
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() else f"{host}:{url.port}"
