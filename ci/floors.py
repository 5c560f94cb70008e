"""Imports go down only: `python -m ci.floors [ROOT]`.

    4    test_harness            imported by tests only
    3    llama_orch              contracts, and of the service the two readers of files
    2    orchestratord | pool_managerd        never each other
    1    worker_adapters
    0.5  contracts.service
    0    contracts               the standard library and pydantic

Inside a daemon: services, app, __main__ > http > runtime > the shell (stores,
clients, processes, clocks) > domain > errors.  `http` reaches stores and clients
through `runtime` alone.  The rules on words are in `ci.idioms`.
"""

from __future__ import annotations

import graphlib
import sys
from collections.abc import Iterator

from ci import idioms
from ci.sources import PACKAGES, PRODUCT, Finding, Import, Module, Sources, report, root_from_argv

EVERYTHING = frozenset({*PACKAGES, "contracts.service"})
DAEMONS = ("orchestratord", "pool_managerd")
MAY_IMPORT = {
    "contracts": frozenset({"contracts"}),
    "contracts.service": frozenset({"contracts", "contracts.service"}),
    "worker_adapters": frozenset({"contracts", "contracts.service", "worker_adapters"}),
    "orchestratord": frozenset(
        {"contracts", "contracts.service", "worker_adapters", "orchestratord"}
    ),
    "pool_managerd": frozenset(
        {"contracts", "contracts.service", "worker_adapters", "pool_managerd"}
    ),
    "llama_orch": frozenset({"contracts", "llama_orch"}),
    "test_harness": EVERYTHING,
    "ci": EVERYTHING - {"test_harness"},
}
"""What each unit may import; the longest prefix of a module's name is its unit."""
ALSO = {"llama_orch": ("contracts.service.settings", "contracts.service.run_files")}
"""Single modules of units that are otherwise out of reach."""

GROUND_LIBRARIES = frozenset({"pydantic", "pydantic_core"})

SHELL = 2
RANKS = {"errors": 0, "domain": 1, "runtime": 3, "http": 4, "services": 5, "app": 5, "__main__": 5}
"""Inside a daemon, by the first part below it; everything else is SHELL."""
BEHIND_RUNTIME = ("stores", "clients")

FORBIDDEN_NAMES = frozenset(
    {"utils", "util", "common", "helpers", "helper", "base_service", "manager", "managers", "misc"}
)


def unit_of(name: str) -> str:
    """The entry of `MAY_IMPORT` a module belongs to; "" for a foreign one."""
    below = f"{name}."
    return max((unit for unit in MAY_IMPORT if below.startswith(f"{unit}.")), key=len, default="")


def floors(sources: Sources) -> Iterator[Finding]:
    """Imports that go up or sideways, between packages."""
    for module, imported in _own_imports(sources):
        unit, target = unit_of(module.name), unit_of(imported.target)
        if target in MAY_IMPORT[unit] or imported.target in ALSO.get(unit, ()):
            continue
        if module.is_test and (target == "test_harness" or target.startswith(f"{module.package}.")):
            continue
        allowed = ", ".join(sorted({*MAY_IMPORT[unit], *ALSO.get(unit, ())} - {unit}))
        yield module.finding(
            imported.line,
            f"{unit} may not import {imported.target}; it may import {allowed or 'nothing'}:"
            " move what both need down, or ask over HTTP",
        )


def ground(sources: Sources) -> Iterator[Finding]:
    """Floor 0 stands on the standard library and pydantic."""
    for module in sources:
        if unit_of(module.name) != "contracts" or module.is_test:
            continue
        for imported in sources.imports[module.name]:
            top = imported.target.partition(".")[0]
            if top not in sys.stdlib_module_names | GROUND_LIBRARIES | {*PACKAGES}:
                yield module.finding(
                    imported.line,
                    f"contracts may not import {top}; only the standard library and pydantic:"
                    " move this module to contracts/service",
                )


def layers(sources: Sources) -> Iterator[Finding]:
    """Imports that go up inside a daemon."""
    for module, imported in _own_imports(sources):
        if module.package not in DAEMONS or module.is_test:
            continue
        if imported.target.partition(".")[0] != module.package:
            continue
        here, there = _layer(module.name), _layer(imported.target)
        if RANKS.get(there, SHELL) > RANKS.get(here, SHELL):
            yield module.finding(
                imported.line,
                f"{here} may not import {there} ({imported.target}), which lies above it:"
                " pass in what is needed",
            )
        elif here == "http" and there in BEHIND_RUNTIME:
            yield module.finding(
                imported.line,
                f"http may not import {there} ({imported.target}): ask a runtime object for it",
            )


def cycles(sources: Sources) -> Iterator[Finding]:
    """The first import cycle, whatever the floors allow."""
    graph = {
        module.name: {
            imported.target
            for imported in sources.imports[module.name]
            if imported.target in sources.modules and imported.target != module.name
        }
        for module in sources
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        names: list[str] = error.args[1][::-1]
        yield sources.modules[names[0]].finding(
            1,
            f"import cycle: {' -> '.join(names)}: move what they share into a module below both",
        )


def hidden_imports(sources: Sources) -> Iterator[Finding]:
    """Imports of our own code inside a function: a cycle or a cost that hides."""
    for module, imported in _own_imports(sources):
        if imported.in_function:
            yield module.finding(
                imported.line,
                f"{imported.target} is imported inside a function: import it at the top of the"
                " file",
            )


def names(sources: Sources) -> Iterator[Finding]:
    """Module names that say nothing of what is inside."""
    for module in sources:
        for name in sorted(FORBIDDEN_NAMES.intersection(module.name.split("."))):
            yield module.finding(1, f"no module is named `{name}`: name it for what it holds")


RULES = (floors, ground, layers, cycles, hidden_imports, names, *idioms.RULES)


def check(sources: Sources) -> Iterator[Finding]:
    """Everything the rules find."""
    for rule in RULES:
        yield from rule(sources)


def _own_imports(sources: Sources) -> Iterator[tuple[Module, Import]]:
    for module in sources:
        for imported in sources.imports[module.name]:
            if imported.target.partition(".")[0] in (*PRODUCT, "test_harness", "ci"):
                yield module, imported


def _layer(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


if __name__ == "__main__":
    sys.exit(report(check(Sources(root_from_argv()))))
