"""Secrets of downloads: each from a file that the configuration names, and from nowhere else."""

from __future__ import annotations

from contracts.pools import FailureReason
from contracts.service.settings import ConfigError, read_secret_file
from pool_managerd.failure import LaunchRefused


def secret_text(key: str, path: str) -> str:
    """The secret in the file at `path`, which the setting `key` names.

    Raises:
        LaunchRefused: the file is missing, readable by others, or holds none.
    """
    try:
        return read_secret_file(path).reveal()
    except ConfigError as error:
        raise LaunchRefused(FailureReason.BAD_ARGUMENT, f"{key}: {error}") from error


def secret_pair(key: str, path: str, form: str) -> tuple[str, str]:
    """The two halves of such a secret, which stands there as `form`, with a colon.

    Raises:
        LaunchRefused: as `secret_text`, or there is no colon.
    """
    first, colon, second = secret_text(key, path).partition(":")
    if not (first and colon and second):
        raise LaunchRefused(FailureReason.BAD_ARGUMENT, f"{key}: {path} must hold {form}")
    return first, second
