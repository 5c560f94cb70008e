"""A request body as a contract: bounded, timed, strict, and named when wrong.

`request.json()` is not used: it answers 500 to half of what it cannot parse,
takes NaN, and lets the last of two equal keys win in silence.  The order here is
content type (415), size (413), deadline (408), then JSON and schema (400).
"""

from __future__ import annotations

import re
from typing import TypeVar

import anyio
import anyio.to_thread
from pydantic import ValidationError
from starlette.requests import Request

from contracts.config import Limits
from contracts.errors import ErrorCode, Refusal
from contracts.model import Contract
from contracts.service.strict_json import BadJson, check_json

M = TypeVar("M", bound=Contract)

PARSED_ON_THE_LOOP_BYTES = 65_536
"""A longer body is parsed in a thread: a megabyte of brackets takes half a second."""

_JSON_TYPE = re.compile(r"application/json\s*(;\s*charset\s*=\s*\"?utf-8\"?\s*)?", re.IGNORECASE)


async def read_contract(request: Request, model: type[M], limits: Limits) -> M:
    """The body of `request` as a `model`.

    Raises:
        Refusal: UNSUPPORTED_MEDIA_TYPE, PAYLOAD_TOO_LARGE, REQUEST_TIMEOUT, or
            INVALID_PARAMS with `details.field` where one field is to blame.
    """
    if not _JSON_TYPE.fullmatch(request.headers.get("content-type", "")):
        raise Refusal(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Send the body as `Content-Type: application/json`."
        )
    body = await read_body(request, limits)
    if len(body) <= PARSED_ON_THE_LOOP_BYTES:
        return parse_contract(body, model, limits.json_depth)
    return await anyio.to_thread.run_sync(parse_contract, body, model, limits.json_depth)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body, of at most `limits.body_bytes`, within `limits.body_timeout_ms`.

    Raises:
        Refusal: PAYLOAD_TOO_LARGE or REQUEST_TIMEOUT.
    """
    announced = request.headers.get("content-length", "0")
    # A number of twenty digits is too large whatever it says, and int() of
    # thousands of digits is a cost the caller would choose.
    if len(announced) > 20 or int(announced) > limits.body_bytes:
        raise _too_large(limits)
    body = bytearray()
    with anyio.move_on_after(limits.body_timeout_ms / 1000) as deadline:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limits.body_bytes:
                raise _too_large(limits)
    if deadline.cancelled_caught:
        raise Refusal(
            ErrorCode.REQUEST_TIMEOUT,
            f"The body did not arrive within {limits.body_timeout_ms} ms.",
        )
    return bytes(body)


def parse_contract(body: bytes, model: type[M], depth_max: int) -> M:
    """`body` as a `model`.

    Raises:
        Refusal: INVALID_PARAMS.
    """
    try:
        check_json(body, depth_max)
    except BadJson as error:
        raise Refusal(ErrorCode.INVALID_PARAMS, f"The body is not valid JSON: {error}.") from error
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        field, reason = first_error(error)
        raise Refusal(
            ErrorCode.INVALID_PARAMS,
            f"{field}: {reason}" if field else reason,
            details={"field": field} if field else None,
        ) from error


def first_error(error: ValidationError) -> tuple[str, str]:
    """The dotted path and the reason of the first error, without the input.

    The reason says how many more there are; the path is empty where the whole
    body is to blame.
    """
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    reason = errors[0]["msg"].removeprefix("Value error, ")
    if len(errors) > 1:
        reason += f" (and {len(errors) - 1} more)"
    path = ""
    for part in errors[0]["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix("."), reason


def _too_large(limits: Limits) -> Refusal:
    return Refusal(
        ErrorCode.PAYLOAD_TOO_LARGE,
        f"The body is larger than limits.body_bytes, {limits.body_bytes} bytes.",
    )
