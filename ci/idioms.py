"""Words that have one place, or none: rules that `ci.floors` runs with its own.

What is pure stays pure, the environment has one reader, a pattern matches whole
strings, a secret is compared by the type that knows how, and a digest becomes a
path in one function.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from ci.sources import Finding, Module, Sources

ENVIRONMENT_READER = "contracts.service.settings"
ENVIRONMENT = frozenset({"environ", "environb", "getenv", "getenvb"})

DIGEST_PATHS = "pool_managerd.models.cache"
CUTTING = frozenset({"removeprefix", "lstrip", "replace"})

IMPURE = frozenset(
    {
        *("time", "random", "secrets", "logging", "os", "socket", "subprocess", "threading"),
        *("asyncio", "anyio", "sqlite3", "aiosqlite", "aiohttp", "httpx2", "starlette"),
        *("hypercorn", "sse_starlette", "prometheus_client", "structlog"),
    }
)
AWAITING = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)

SECRET_WORDS = frozenset({"token", "secret", "secrets", "password"})
# Of text and of time there are tokens too: `first_token_ms`, `token_index`.
HARMLESS_WORDS = frozenset({"ms", "s", "at", "count", "index", "bytes", "event", "events", "first"})


def pure_domain(sources: Sources) -> Iterator[Finding]:
    """No await, clock, chance, log, framework or I/O under `domain/`."""
    for module in sources:
        if not (module.is_product and ".domain." in f"{module.name}."):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, AWAITING):
                yield module.finding(
                    node, "domain/ is synchronous: decide here and let runtime/ await"
                )
        for imported in sources.imports[module.name]:
            top = imported.target.partition(".")[0]
            if top in IMPURE:
                yield module.finding(
                    imported.line,
                    f"domain/ may not import {top}: take the time, the chance or the fact as an"
                    " argument",
                )


def one_environment_reader(sources: Sources) -> Iterator[Finding]:
    """The environment is read in one module."""
    for module in sources:
        if not module.is_product or module.name == ENVIRONMENT_READER:
            continue
        for node in ast.walk(module.tree):
            if _reads_environment(node):
                yield module.finding(
                    node,
                    "the environment is read in contracts/service/settings.py only: take the"
                    " value from Settings or child_environment",
                )


def whole_matches(sources: Sources) -> Iterator[Finding]:
    """`match` stops early and `$` lets a final newline in: `fullmatch` does neither."""
    for module in sources:
        compiled = _compiled_patterns(module)
        for node in ast.walk(module.tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if not isinstance(node.func.value, ast.Name):
                continue
            receiver, method = node.func.value.id, node.func.attr
            if receiver == "re":
                pattern = _literal(node.args[0]) if node.args else None
            elif receiver in compiled:
                pattern = compiled[receiver]
            else:
                continue
            if _is_loose(method, pattern or "", module):
                yield module.finding(
                    node, f"{receiver}.{method} lets a tail through: use fullmatch"
                )


def secret_comparisons(sources: Sources) -> Iterator[Finding]:
    """`==` on a secret tells how much of it was right."""
    for module in sources:
        if not module.is_product:
            continue
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Compare) or not _compares_values(node):
                continue
            for side in _operands(node):
                name = _identifier(side)
                if is_secret_name(name):
                    yield module.finding(
                        node,
                        f"`{name}` is compared with an operator: use Secret.matches, or name it"
                        " otherwise if it is no secret",
                    )


def one_digest_path(sources: Sources) -> Iterator[Finding]:
    """A digest becomes a path in one function, which checks it."""
    for module in sources:
        if not module.is_product or module.name == DIGEST_PATHS:
            continue
        for node in ast.walk(module.tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in CUTTING and any(
                _literal(argument) in ("sha256:", "sha256") for argument in node.args
            ):
                yield module.finding(
                    node,
                    "a digest is cut for a path here: use digest_directory of"
                    " pool_managerd.models.cache, which checks it",
                )


RULES: tuple[Callable[[Sources], Iterator[Finding]], ...] = (
    pure_domain,
    one_environment_reader,
    whole_matches,
    secret_comparisons,
    one_digest_path,
)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret; a CONSTANT does not."""
    if not name or name.isupper():
        return False
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = set(snake.split("_"))
    if "api_key" in snake or "apikey" in words:
        return True
    return bool(words & SECRET_WORDS) and not words & HARMLESS_WORDS


def _reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
        return isinstance(node.value, ast.Name) and node.value.id == "os"
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        return any(alias.name in ENVIRONMENT for alias in node.names)
    return False


def _compiled_patterns(module: Module) -> dict[str, str]:
    """Names bound to `re.compile("…")` and their patterns, where written out."""
    found: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        if ast.unparse(node.value.func) != "re.compile" or not node.value.args:
            continue
        for target in node.targets:
            if isinstance(target, ast.Name):
                found[target.id] = _literal(node.value.args[0]) or ""
    return found


def _literal(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        text = node.value
        return text if isinstance(text, str) else text.decode("latin-1")
    return None


def _is_loose(method: str, pattern: str, module: Module) -> bool:
    anchored = pattern.endswith("$") and not pattern.endswith(r"\$")
    if method == "match":
        return module.is_product or anchored
    return method == "search" and module.is_product and anchored and pattern.startswith("^")


def _compares_values(node: ast.Compare) -> bool:
    """`==`, `!=`, `in` or `not in`, and nothing on either side that no secret would meet."""
    if not all(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
        return False
    return not any(_is_fixed(side) for side in _operands(node))


def _is_fixed(side: ast.expr) -> bool:
    """None, a number, or one of our own CONSTANTS."""
    if isinstance(side, ast.Constant):
        return not isinstance(side.value, str | bytes)
    return _identifier(side).isupper()


def _operands(node: ast.Compare) -> Iterator[ast.expr]:
    """Both sides, and what a written-out tuple, list or set holds."""
    for side in (node.left, *node.comparators):
        if isinstance(side, ast.Tuple | ast.List | ast.Set):
            yield from side.elts
        else:
            yield side


def _identifier(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
