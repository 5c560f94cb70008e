"""Logs are lines, whatever is in them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from contracts.service.logs import LINE_BYTES_MAX, configure_logs, line


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    configure_logs("info", "orchestratord", stream)
    yield stream
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(text) for text in stream.getvalue().split("\n") if text]


def test_a_line_is_json_with_its_place_and_time(written: io.StringIO) -> None:
    """LO-SYS-040."""
    with structlog.contextvars.bound_contextvars(correlation_id="c-1"):
        structlog.get_logger().info("task.admitted", pool_id="chat")
    (found,) = lines(written)
    assert list(found)[:5] == ["at", "level", "daemon", "event", "correlation_id"]
    assert str(found.pop("at")).endswith("Z")
    assert found == {
        "level": "info",
        "daemon": "orchestratord",
        "event": "task.admitted",
        "correlation_id": "c-1",
        "pool_id": "chat",
    }


def test_what_is_below_the_level_is_not_written(written: io.StringIO) -> None:
    structlog.get_logger().debug("quiet")
    logging.getLogger("a").info("quiet")
    assert written.getvalue() == ""


def test_a_library_writes_the_same_lines(written: io.StringIO) -> None:
    """LO-SYS-040."""
    logging.getLogger("aiohttp.client").warning("lost %s", "it\n\x1b[31m")
    (found,) = lines(written)
    assert found["event"] == "library.aiohttp.client"
    assert found["message"] == "lost it\n\x1b[31m"
    assert found["daemon"] == "orchestratord"
    assert "\x1b" not in written.getvalue()


def test_no_character_breaks_a_line_or_paints_a_terminal(written: io.StringIO) -> None:
    """LO-SYS-040."""
    hostile = "a\r\nb\x1b[31m\x00\x7f\x85\x9b\u2028\u2029"
    structlog.get_logger().info("hostile", text=hostile)
    text = written.getvalue()
    assert text.count("\n") == 1
    assert not set(text[:-1]) & set("\r\n\x1b\x00\x7f\x85\x9b\u2028\u2029")
    assert lines(written)[0]["text"] == hostile


@pytest.mark.parametrize("text", ["x" * 2_000_000, "€" * 100_000, "\x1b" * 100_000])
def test_a_line_is_capped_and_says_so(written: io.StringIO, text: str) -> None:
    structlog.get_logger().info("long", text=text, **{f"k{n}": text for n in range(40)})
    assert len(written.getvalue().encode()) <= LINE_BYTES_MAX + 1
    (found,) = lines(written)
    assert (found["event"], found["cut"]) == ("long", True)


def test_a_token_is_not_logged_under_any_name(written: io.StringIO) -> None:
    """LO-SYS-032."""
    structlog.get_logger().info(
        "http.request",
        token="hunter2",
        api_key="hunter2",
        Authorization="hunter2",
        header="authorization: Bearer hunter2",
        tokens_out=7,
        max_tokens=8,
    )
    assert "hunter2" not in written.getvalue()
    (found,) = lines(written)
    assert (found["tokens_out"], found["max_tokens"]) == (7, 8)


def test_a_traceback_shows_no_local_values(written: io.StringIO) -> None:
    """LO-SYS-032."""

    def fail(secret: str) -> None:
        raise ValueError("no detail")

    try:
        fail("hunter2")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "hunter2" not in written.getvalue().replace('fail(\\"hunter2\\")', "")
    assert "ValueError: no detail" in str(lines(written)[0]["exception"])


def test_what_json_cannot_say_is_written_as_text() -> None:
    assert (
        json.loads(line(None, "", {"event": "e", "thing": {1, 2}, "path": object}))["event"] == "e"
    )
