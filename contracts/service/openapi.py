"""The OpenAPI 3.1 document of one daemon, from its routes and the contracts.

It is a function of the route list alone and comes out in the same order each time,
so that a stale copy in the repository is found by comparing bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal, cast

from pydantic.json_schema import models_json_schema

from contracts.errors import STATUS, ErrorCode, ErrorEnvelope
from contracts.ids import CORRELATION_ID_PATTERN
from contracts.model import Contract
from contracts.service.envelope import BACKOFF_STATUSES, CORRELATION_HEADER
from contracts.service.routes import JSON, ApiRoute, Operation, Parameter, Scope, Success

Json = dict[str, Any]
Mode = Literal["validation", "serialization"]
Refs = Mapping[tuple[type[Contract], Mode], Json]

ANY_ROUTE = (
    ErrorCode.INVALID_PARAMS,
    ErrorCode.FORBIDDEN,
    ErrorCode.METHOD_NOT_ALLOWED,
    ErrorCode.ADMISSION_REJECT,
    ErrorCode.HEADERS_TOO_LARGE,
    ErrorCode.INTERNAL,
)
WITH_BODY = (
    ErrorCode.REQUEST_TIMEOUT,
    ErrorCode.PAYLOAD_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
)
_BACKOFF_HEADERS: Json = {
    "X-Backoff-Ms": {
        "description": "Wait so many milliseconds.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Retry-After": {
        "description": "The same in whole seconds, rounded up.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
_CORRELATION: Json = {
    CORRELATION_HEADER: {
        "description": "The id of this request in every log; the caller's own if well formed.",
        "schema": {"type": "string", "pattern": CORRELATION_ID_PATTERN},
    }
}


def openapi_document(routes: Sequence[ApiRoute], title: str, version: str = "v1") -> Json:
    """The document; equal routes give equal documents."""
    refs, schemas = _schemas(routes)
    paths: dict[str, Json] = {}
    for route in sorted(routes, key=lambda route: (route.path, route.method)):
        paths.setdefault(route.path_format, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _schemas(routes: Iterable[ApiRoute]) -> tuple[Refs, Json]:
    wanted: set[tuple[type[Contract], Mode]] = {(ErrorEnvelope, "serialization")}
    for route in routes:
        operation = route.operation
        if operation.request is not None:
            wanted.add((operation.request, "validation"))
        answers = (operation.response, *(success.response for success in operation.also))
        wanted |= {(model, "serialization") for model in answers if model is not None}
    ordered = sorted(wanted, key=lambda pair: (pair[0].__name__, pair[1]))
    refs, definitions = models_json_schema(ordered, ref_template="#/components/schemas/{model}")
    return cast(Refs, refs), definitions["$defs"]


def _operation(route: ApiRoute, refs: Refs) -> Json:
    operation = route.operation
    own = Success(operation.status, operation.response, operation.media_type)
    responses = {
        str(success.status): _success(success, operation.headers, refs)
        for success in (own, *operation.also)
    }
    for status, codes in _by_status(_codes(route)).items():
        responses.setdefault(str(status), _failure(status, codes, refs))
    document: Json = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "security": [] if route.scope is Scope.PUBLIC else [{"bearer": []}, {"apiKey": []}],
        "responses": dict(sorted(responses.items())),
    }
    parameters = _parameters(route, operation)
    if parameters:
        document["parameters"] = parameters
    if operation.request is not None:
        schema = refs[operation.request, "validation"]
        document["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return document


def _codes(route: ApiRoute) -> set[ErrorCode]:
    codes = {*ANY_ROUTE, *route.operation.errors}
    if route.scope is Scope.API:
        codes.add(ErrorCode.UNAUTHENTICATED)
    if route.operation.request is not None:
        codes.update(WITH_BODY)
    if route.operation.admits_work:
        codes.add(ErrorCode.SHUTTING_DOWN)
    return codes


def _by_status(codes: Iterable[ErrorCode]) -> dict[int, list[ErrorCode]]:
    grouped: dict[int, list[ErrorCode]] = {}
    for code in sorted(codes):
        grouped.setdefault(STATUS[code], []).append(code)
    return grouped


def _success(success: Success, headers: Iterable[Parameter], refs: Refs) -> Json:
    own = {h.name: {"description": h.description, "schema": dict(h.schema)} for h in headers}
    document: Json = {"description": success.description, "headers": {**_CORRELATION, **own}}
    if success.response is not None:
        schema: Json = refs[success.response, "serialization"]
    elif success.media_type != JSON:
        schema = {"type": "string"}
    else:
        return document
    document["content"] = {success.media_type.partition(";")[0]: {"schema": schema}}
    return document


def _failure(status: int, codes: Sequence[ErrorCode], refs: Refs) -> Json:
    headers = {**_CORRELATION, **(_BACKOFF_HEADERS if status in BACKOFF_STATUSES else {})}
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(codes)}.",
        "headers": headers,
        "content": {JSON: {"schema": refs[ErrorEnvelope, "serialization"]}},
    }


def _parameters(route: ApiRoute, operation: Operation) -> list[Json]:
    known = {parameter.name: parameter for parameter in operation.path}
    path = [
        known.get(name) or Parameter(name, "Name of the thing.", {"type": "string", "minLength": 1})
        for name in route.param_convertors
    ]
    return [
        *(_parameter("path", parameter, required=True) for parameter in path),
        *(_parameter("query", found, required=found.required) for found in operation.query),
        *(
            _parameter("header", found, required=found.required)
            for found in operation.request_headers
        ),
    ]


def _parameter(where: str, parameter: Parameter, *, required: bool) -> Json:
    return {
        "name": parameter.name,
        "in": where,
        "required": required,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }
