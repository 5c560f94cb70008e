"""The document: complete, stable, and resolvable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contracts.config import Config
from contracts.service.app import build_app
from contracts.service.drain import Drain
from contracts.service.openapi import openapi_document
from contracts.service.routes import ApiRoute
from contracts.service.settings import Secret, Settings
from contracts.tests.conftest import Served, routes_of


@pytest.fixture
async def routes() -> list[ApiRoute]:
    return routes_of(Served(0, Drain()), Config())


pytestmark = pytest.mark.anyio


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in references(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in references(inner)]
    return []


async def test_it_is_the_same_whatever_the_order_of_routes(routes: list[ApiRoute]) -> None:
    first = json.dumps(openapi_document(routes, "test"))
    assert first == json.dumps(openapi_document(routes[::-1], "test"))


async def test_every_reference_resolves(routes: list[ApiRoute]) -> None:
    document = openapi_document(routes, "test")
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) == known


async def test_every_route_tells_what_it_may_answer(routes: list[ApiRoute]) -> None:
    paths = openapi_document(routes, "test")["paths"]
    for route in routes:
        operation = paths[route.path][route.method.lower()]
        assert {"400", "403", "405", "429", "431", "500"} <= set(operation["responses"])
        assert ("401" in operation["responses"]) == bool(operation["security"])
        for status in ("429", "503"):
            if status in operation["responses"]:
                assert "Retry-After" in operation["responses"][status]["headers"]
    echo = paths["/v1/echo"]["post"]
    assert {"408", "413", "415", "503"} <= set(echo["responses"])
    assert paths["/healthz"]["get"]["security"] == []
    item = paths["/v1/items/{item_id}"]["get"]
    assert [(found["in"], found["name"]) for found in item["parameters"]] == [
        ("path", "item_id"),
        ("query", "limit"),
    ]
    assert "MODEL_UNKNOWN" in item["responses"]["404"]["description"]
    assert list(paths["/v1/events"]["get"]["responses"]["200"]["content"]) == ["text/event-stream"]
    assert "content" not in paths["/v1/items/{item_id}"]["delete"]["responses"]["204"]


async def test_a_route_without_a_scope_cannot_be_made(routes: list[ApiRoute]) -> None:
    """LO-HTTP-006."""
    with pytest.raises(TypeError, match="scope"):
        ApiRoute("GET", "/x", routes[0].endpoint, operation=routes[0].operation)  # type: ignore[call-arg]


async def test_two_routes_cannot_serve_one_method_and_path(
    routes: list[ApiRoute], tmp_path: Path
) -> None:
    settings = Settings(Config(), tmp_path, tmp_path, Secret("t"))
    with pytest.raises(ValueError, match="two routes serve GET /healthz"):
        build_app(
            [*routes, routes[0]],
            settings=settings,
            listen=settings.config.orchestratord,
            drain=Drain(),
        )
