"""`mode: external`: a server somebody else runs; it is observed, never started or stopped."""

from __future__ import annotations

from contracts.config import External
from contracts.pools import FailureReason
from contracts.service.settings import ConfigError, read_secret_file
from pool_managerd.failure import LaunchRefused
from pool_managerd.replica import Endpoint


def endpoint(external: External) -> Endpoint:
    """Where the server is, and the key it takes; reads the key's file.

    Raises:
        LaunchRefused: the file cannot be used.
    """
    if external.api_key_file is None:
        return Endpoint(external.url.rstrip("/"), None)
    try:
        key = read_secret_file(external.api_key_file)
    except ConfigError as error:
        raise LaunchRefused(
            FailureReason.BAD_ARGUMENT, f"provisioning.api_key_file: {error}"
        ) from error
    return Endpoint(external.url.rstrip("/"), key.reveal())
