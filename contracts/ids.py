"""Identifiers: their one grammar, and how a new one is made.

Every identifier that reaches a file name, a header, a log line or an SQL row is
checked here with `fullmatch`; `$` in a pattern would let a final newline in.
"""

from __future__ import annotations

import re
import uuid
from typing import Annotated

from pydantic import AfterValidator, Field

UUID_PATTERN = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MODEL_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
CORRELATION_ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"

_UUID = re.compile(UUID_PATTERN)
_CORRELATION_ID = re.compile(CORRELATION_ID_PATTERN)


def is_uuid(text: str) -> bool:
    """True for a UUID in its 36-character form, in either case."""
    return _UUID.fullmatch(text) is not None


def is_correlation_id(text: str) -> bool:
    """True where `text` may be echoed in a header and written to a log line."""
    return _CORRELATION_ID.fullmatch(text) is not None


def new_uuid() -> str:
    """A random version 4 UUID, lower case."""
    return str(uuid.uuid4())


# pydantic's regex engine anchors `$` at the very end, so these patterns are exact.
Uuid = Annotated[str, Field(pattern=UUID_PATTERN), AfterValidator(str.lower)]
PoolId = Annotated[str, Field(pattern=NAME_PATTERN)]
ReplicaId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[0-9]{1,4}$")]
ModelId = Annotated[str, Field(pattern=MODEL_ID_PATTERN)]
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
CorrelationId = Annotated[str, Field(pattern=CORRELATION_ID_PATTERN)]
