"""The files that are generated and kept: `ci/regen` writes them, `ci/regen --check` compares.

They are kept so that a change of what the world sees shows up in review.  Each
is a function of the code alone, with sorted keys, so that equal code gives
equal bytes.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_type_hints

from pydantic.json_schema import models_json_schema

from ci.sources import ROOT
from contracts.config import Config
from contracts.events import EVENT_MODELS, TERMINAL_EVENTS
from contracts.metrics import LABEL_VALUES, METRICS
from contracts.model import Contract
from contracts.service.openapi import openapi_document
from contracts.service.routes import ApiRoute
from orchestratord.app import RouteGroups as OrchestratordRoutes
from pool_managerd.app import RouteGroups as PoolManagerdRoutes

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DIFF_LINES_MAX = 40
Json = dict[str, Any]


class RouteTable(Protocol):
    """The route groups of a daemon."""

    def routes(self) -> list[ApiRoute]:
        """All routes, in the order they are matched."""
        ...


Table = TypeVar("Table", bound=RouteTable)


def routes_of(table: type[Table]) -> list[ApiRoute]:
    """The routes of a daemon that does not run.

    A group is made without its services: it can tell its routes and could answer
    none of them.
    """
    groups = {name: kind.__new__(kind) for name, kind in get_type_hints(table).items()}
    return table(**groups).routes()


def config_schema() -> Json:
    """The configuration file."""
    return {"$schema": DIALECT, **Config.model_json_schema()}


def events_schema() -> Json:
    """One event of a task's stream: its name, and what its `data` holds."""
    models: list[tuple[type[Contract], Literal["serialization"]]] = [
        (model, "serialization") for model in EVENT_MODELS.values()
    ]
    refs, document = models_json_schema(models)
    data = {name: refs[model, "serialization"] for name, model in EVENT_MODELS.items()}
    return {
        "$schema": DIALECT,
        "title": "Event",
        "description": "One event of a task's stream; the last one is "
        + " or ".join(sorted(TERMINAL_EVENTS))
        + ".",
        "oneOf": [_event(name, schema) for name, schema in data.items()],
        **document,
    }


def _event(name: str, data: Json) -> Json:
    return {
        "type": "object",
        "properties": {
            "id": {"type": "integer", "minimum": 1},
            "event": {"const": name},
            "data": data,
        },
        "required": ["event", "data"],
        "additionalProperties": False,
    }


def metrics_lint() -> Json:
    """Every metric family, for linters of dashboards and alerts."""
    return {
        "metrics": [
            {
                "name": metric.name,
                "type": metric.kind,
                "help": metric.help,
                "labels": list(metric.labels),
                "buckets": list(metric.buckets),
                "daemon": metric.daemon,
            }
            for metric in sorted(METRICS, key=lambda metric: metric.name)
        ],
        "label_values": {label: list(values) for label, values in LABEL_VALUES.items()},
    }


def generated() -> dict[str, str]:
    """Every kept file by its path, and what it must hold."""
    documents = {
        "contracts/openapi/orchestratord.json": openapi_document(
            routes_of(OrchestratordRoutes), "orchestratord"
        ),
        "contracts/openapi/pool_managerd.json": openapi_document(
            routes_of(PoolManagerdRoutes), "pool_managerd"
        ),
        "contracts/schema/config.json": config_schema(),
        "contracts/schema/events.json": events_schema(),
        "ci/metrics.lint.json": metrics_lint(),
    }
    return {
        path: json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for path, document in documents.items()
    }


def differences(root: Path, wanted: dict[str, str]) -> Iterator[str]:
    """A unified diff for each file that is not as it must be."""
    for path, text in wanted.items():
        target = root / path
        kept = target.read_text("utf-8") if target.exists() else ""
        if kept == text:
            continue
        lines = difflib.unified_diff(
            kept.split("\n"), text.split("\n"), path, f"{path} (generated)", lineterm="", n=1
        )
        yield "\n".join([*lines][:DIFF_LINES_MAX])


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or with --check say which are stale."""
    parser = argparse.ArgumentParser(prog="ci/regen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when stale")
    check = parser.parse_args(argv).check
    wanted = generated()
    stale = list(differences(ROOT, wanted))
    if check:
        for diff in stale:
            print(diff)
        return 1 if stale else 0
    for path, text in wanted.items():
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    print(f"{len(wanted)} files written, {len(stale)} of them new or changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
