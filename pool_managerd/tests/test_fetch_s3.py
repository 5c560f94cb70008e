"""Signature Version 4 against the example that its specification publishes."""

from __future__ import annotations

from datetime import UTC, datetime

from yarl import URL

from pool_managerd.models.fetch_s3 import Signature4


def test_the_published_example_comes_out() -> None:
    """LO-POOL-118: "Example: GET Object" of the S3 API reference, sig-v4-header-based-auth."""
    sign = Signature4(
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "us-east-1",
        now=lambda: datetime(2013, 5, 24, tzinfo=UTC),
    )
    url = URL("https://examplebucket.s3.amazonaws.com/test.txt")
    headers = sign("GET", url, {"Range": "bytes=0-9", "User-Agent": "not signed"})
    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256"
        " Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    assert "wJalr" not in repr(sign)
