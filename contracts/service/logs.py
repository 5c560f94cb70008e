"""Logs: one JSON object a line on stderr, whoever wrote it.

Every line has `at` (UTC), `level`, `daemon`, `event` (a stable name, in dots), and
inside a request `correlation_id`.  Control characters are escaped, so that no
client can break a line or paint a terminal; a line over the cap is cut and says so.
Nothing of a token is logged, whatever the key is called.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import msgspec
import structlog

LINE_BYTES_MAX = 16_384
_CUT_CHARACTERS = 512

_SECRET_KEY = re.compile(r"token|secret|authorization|api_?key|password", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"(?i)\b(bearer\s+)[\x21-\x7e]+")
# JSON lets these through, terminals and line readers do not: DEL, the C1 range,
# and the two Unicode line ends.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029]")
_COUNTS = re.compile(r"tokens(_in|_out|_per_second)?|max_tokens|tokens_.*")

_FIRST = ("at", "level", "daemon", "event", "correlation_id")

Fields = MutableMapping[str, Any]


def configure_logs(level: str, daemon: str, stream: TextIO | None = None) -> None:
    """Send structlog and the standard library's logging to `stream` (stderr) as JSON lines."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
        _named(daemon),
        redacted,
    ]
    structlog.configure(
        processors=[*shared, line],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                _from_library,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                line,
            ],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(capture=True)


def line(_logger: Any, _method: str, fields: Fields) -> str:
    """`fields` as one line of JSON of at most `LINE_BYTES_MAX` bytes."""
    first = {key: fields[key] for key in _FIRST if key in fields}
    fields = {**first, **fields}
    text = _json(fields)
    if len(text) <= LINE_BYTES_MAX // 4 or len(text.encode()) <= LINE_BYTES_MAX:
        return text
    cut = {key: _cut(value) for key, value in list(fields.items())[:16]}
    text = _json({**cut, "cut": True})
    if len(text.encode()) <= LINE_BYTES_MAX:
        return text
    return _json({"event": _cut(fields.get("event")), "level": fields.get("level"), "cut": True})


def redacted(_logger: Any, _method: str, fields: Fields) -> Fields:
    """Blank what a key calls secret, and any bearer token inside a text."""
    for key, value in fields.items():
        if _SECRET_KEY.search(key) and not _COUNTS.fullmatch(key):
            fields[key] = "[redacted]"
        elif isinstance(value, str) and "earer" in value:
            fields[key] = _SECRET_TEXT.sub(r"\1[redacted]", value)
    return fields


def _json(fields: Mapping[str, Any]) -> str:
    text = msgspec.json.encode(fields, enc_hook=str).decode("utf-8")
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _cut(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:_CUT_CHARACTERS]


def _named(daemon: str) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, fields: Fields) -> Fields:
        fields["daemon"] = daemon
        return fields

    return add


def _from_library(_logger: Any, _method: str, fields: Fields) -> Fields:
    record = fields.get("_record")
    fields["message"] = fields.pop("event", "")
    fields["event"] = f"library.{record.name}" if record is not None else "library"
    return fields
