"""The one base of every contract, and the field types they share."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

BYTES_MAX = 2**53
MILLISECONDS_MAX = 7 * 24 * 3600 * 1000
TOKENS_MAX = 2**31 - 1


def _without_null_defaults(schema: dict[str, Any]) -> None:
    """Drop `default: null` where null itself would be refused."""
    for field in schema.get("properties", {}).values():
        nullable = any(option.get("type") == "null" for option in field.get("anyOf", ()))
        if not nullable and field.get("default", ...) is None:
            del field["default"]


class Contract(BaseModel):
    """A frozen value that refuses unknown fields and never coerces a type."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, json_schema_extra=_without_null_defaults
    )


class _NotNull:
    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        if schema["type"] != "nullable":
            return schema
        return core_schema.json_or_python_schema(json_schema=schema["schema"], python_schema=schema)


T = TypeVar("T")

Omissible = Annotated[T | None, _NotNull(), Field(exclude_if=lambda value: value is None)]
"""A field that may be left out but not sent as null, and is left out when None.

`Omissible[int]` with the default None reads as None in Python when absent; a
JSON null is refused, and the JSON Schema does not offer it.
"""

Milliseconds = Annotated[int, Field(ge=0, le=MILLISECONDS_MAX)]
Elapsed = Annotated[int, Field(ge=0, le=BYTES_MAX)]
"""Milliseconds that have passed: a fact, so longer than anybody may ask for."""
UnixMilliseconds = Annotated[int, Field(ge=0, le=BYTES_MAX)]
ByteCount = Annotated[int, Field(ge=0, le=BYTES_MAX)]
TokenCount = Annotated[int, Field(ge=0, le=TOKENS_MAX)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
