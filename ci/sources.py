"""The repository's own Python, parsed once, and how its rules speak."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("contracts", "worker_adapters", "orchestratord", "pool_managerd", "llama_orch")
PACKAGES = (*PRODUCT, "test_harness", "ci")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One broken rule: where, and what to do."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, by its full name."""

    target: str
    line: int
    in_function: bool


@dataclass(frozen=True)
class Module:
    """One parsed file."""

    name: str
    """Dotted, as it is imported: `orchestratord.domain.queue`."""
    path: str
    """Relative to the root."""
    tree: ast.Module
    is_package: bool

    @property
    def package(self) -> str:
        """The top package."""
        return self.name.partition(".")[0]

    @property
    def is_test(self) -> bool:
        """Whether only pytest ever runs it."""
        return ".tests." in f"{self.name}." or self.name.endswith("conftest")

    @property
    def is_product(self) -> bool:
        """Whether it is part of what is shipped."""
        return self.package in PRODUCT and not self.is_test

    def finding(self, node: ast.AST | int, message: str) -> Finding:
        """A finding at `node`, or at a line."""
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return Finding(self.path, line, message)


class Sources:
    """Every module under a root, by name."""

    def __init__(self, root: Path) -> None:
        self.modules = {module.name: module for module in _read(root)}

    def __iter__(self) -> Iterator[Module]:
        return iter(self.modules.values())

    @cached_property
    def imports(self) -> dict[str, list[Import]]:
        """What each module imports, by its name; `from a import b` names `a.b` if it is one."""
        return {module.name: list(self._imports_of(module)) for module in self}

    def _imports_of(self, module: Module) -> Iterator[Import]:
        nested = {
            id(node)
            for function in ast.walk(module.tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for target in self._targets(module, node):
                    yield Import(target, node.lineno, id(node) in nested)

    def _targets(self, module: Module, node: ast.Import | ast.ImportFrom) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        base = node.module or ""
        if node.level:
            parts = module.name.split(".")
            kept = len(parts) - node.level + module.is_package
            base = ".".join([*parts[:kept], *([base] if base else [])])
        named = (f"{base}.{alias.name}" for alias in node.names)
        return sorted({name if name in self.modules else base for name in named})


def _read(root: Path) -> Iterator[Module]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root)
            parts = list(relative.with_suffix("").parts)
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            yield Module(name, str(relative), ast.parse(path.read_text("utf-8")), is_package)


def report(findings: Iterable[Finding]) -> int:
    """Print what was found; 1 when there was anything, as an exit code."""
    lines = sorted(set(findings))
    for line in lines:
        print(line)
    return 1 if lines else 0


def root_from_argv() -> Path:
    """The tree to look at: the first argument, else this repository."""
    return Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
