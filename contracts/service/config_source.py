"""The YAML file and the `LLORCH_*` variables, merged into one `Config`.

pydantic-settings is not used: its environment source neither reaches into lists
(`LLORCH_POOLS__0__CTX`), nor keeps JSON types strict, nor refuses a variable it
does not know.  What is left of it would be one loop, so the loop is here.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from contracts.config import Config, unserved

CONFIG_BYTES_MAX = 1_048_576
CONFIG_DEPTH_MAX = 32
CONFIG_NODES_MAX = 50_000
LIST_INDEX_MAX = 999
PATHS_SHOWN, PATH_SHOWN = 3, 80
"""Of the problems after the first: how many are named, and characters of each name."""
PREFIX = "LLORCH_"
RESERVED = frozenset(
    {
        "LLORCH_API_TOKEN",
        "LLORCH_CONFIG",
        "LLORCH_FAILPOINTS",
        "LLORCH_URL",
        "LLORCH_BDD_FEATURE_PATH",
        # Switches of the test suite: where a real engine is, if there is one.
        "LLORCH_LLAMA_SERVER",
        "LLORCH_VLLM_PYTHON",
        "LLORCH_TRITON",
        "LLORCH_TGI_URL",
        "LLORCH_HAIKU_MODEL",
        "LLORCH_HAIKU_POOL",
        "LLORCH_PROOF_DIR",
    }
)


class ConfigError(Exception):
    """What is wrong with the configuration: one line, key and remedy; exit 78."""


try:
    _Base: Any = yaml.CSafeLoader
except AttributeError:  # PyYAML built without libyaml
    _Base = yaml.SafeLoader


class _Loader(_Base):  # type: ignore[misc]
    """YAML's JSON-like core: no dates, no octals, `on` and `no` are words."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"line {line}: a key must be a plain word")
            if key.value in seen:
                raise ConfigError(f"line {line}: the key `{key.value[:64]}` is repeated")
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:null", r"~|null|", ["~", "n", ""]),
    ("tag:yaml.org,2002:bool", r"true|false", ["t", "f"]),
    ("tag:yaml.org,2002:int", r"-?(0|[1-9][0-9]{0,17})", list("-0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,2})?",
        list("-0123456789"),
    ),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def default_config_path(environ: Mapping[str, str]) -> Path:
    """Where the configuration is looked for when nothing names it."""
    if environ.get("LLORCH_CONFIG"):
        return expanded(environ["LLORCH_CONFIG"], environ)
    base = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return expanded(base, environ) / "llama-orch" / "config.yaml"


def expanded(path: str, environ: Mapping[str, str]) -> Path:
    """`path` made absolute, with a leading `~` read as HOME, else as the user's own."""
    if path == "~" or path.startswith("~/"):
        path = (environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir) + path[1:]
    return Path(path).absolute()


def load_config(path: Path, environ: Mapping[str, str], *, missing_ok: bool = False) -> Config:
    """The configuration in `path`, overridden from `environ`; nothing is written.

    Raises:
        ConfigError: with the path of the key, never a secret.
    """
    tree = None if missing_ok and not path.exists() else parse_yaml(file_text(path), str(path))
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the file must hold keys and values, such as `pools: []`")
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in RESERVED:
            _override(tree, name, environ[name])
    return validated(tree)


def validated(tree: dict[str, Any]) -> Config:
    """`tree` as a configuration that this version obeys in full.

    It goes through JSON, so that a list becomes a tuple and no type is coerced.

    Raises:
        ConfigError: with the path of the key.
    """
    try:
        config = Config.model_validate_json(msgspec.json.encode(tree))
    except ValidationError as error:
        raise ConfigError(first_line(error, tree)) from error
    refused = unserved(config)
    if refused:
        raise ConfigError(refused)
    return config


def parse_yaml(text: str, source: str) -> Any:
    """The one YAML document in `text`: no anchors, no tags, no repeated key.

    Raises:
        ConfigError: with the line.
    """
    try:
        _refuse_bombs(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{source}: {line}{error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{source}: not YAML: {reason[:200]}") from error


def _refuse_bombs(text: str) -> None:
    """An alias can stand for a billion nodes, nesting for a deep stack, a megabyte for 400."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Base)):
        if count > CONFIG_NODES_MAX:
            raise ConfigError(f"more than {CONFIG_NODES_MAX} keys and values")
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError(f"line {line}: anchors and aliases are not taken; write it out")
        tag = getattr(event, "tag", None)
        if tag:
            raise ConfigError(f"line {line}: tags such as `{tag[:64]}` are not taken")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > CONFIG_DEPTH_MAX:
                raise ConfigError(f"line {line}: more than {CONFIG_DEPTH_MAX} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def file_text(path: Path) -> str:
    """The text of a regular file of bounded size; ConfigError where it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path}: not a regular file")
            data = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no configuration here; make one with `llama-orch config init`,"
            " or name one with --config"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {CONFIG_BYTES_MAX} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8") from error


def _override(tree: dict[str, Any], name: str, text: str) -> None:
    """Set the key that `name` spells; its value is read as a YAML scalar or as JSON."""
    parts = name.removeprefix(PREFIX).lower().split("__")
    if parts[0] not in Config.model_fields:
        raise ConfigError(f"{name}: no such setting; unset it, or see `llama-orch config schema`")
    here: Any = tree
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if isinstance(here, list):
            here = _list_item(here, name, part, text if last else None)
        elif isinstance(here, dict):
            if last:
                here[part] = parse_yaml(text, name)
            elif here.get(part) is None:
                here[part] = {}
            here = here[part]
        else:
            raise ConfigError(f"{name}: `{'.'.join(parts[:index])}` has no keys below it")


def _list_item(items: list[Any], name: str, part: str, text: str | None) -> Any:
    if not re.fullmatch(r"[0-9]{1,3}", part) or int(part) > min(len(items), LIST_INDEX_MAX):
        raise ConfigError(f"{name}: `{part}` is not an index from 0 to {len(items)}")
    index = int(part)
    if index == len(items):
        items.append({})
    if text is not None:
        items[index] = parse_yaml(text, name)
    return items[index]


def first_line(error: ValidationError, tree: Any) -> str:
    """One line: the key's path, what is wrong, the keys of the next; never a text value."""
    first, *others = error.errors(include_url=False)
    reason = {"extra_forbidden": "unknown key", "missing": "required"}.get(
        first["type"], first["msg"].removeprefix("Value error, ")
    )
    given = first["input"]
    if isinstance(given, int | float) and first["type"] != "extra_forbidden":
        reason += f", not {given!s:.40}"
    paths = [f"{_path(other, tree):.{PATH_SHOWN}}" for other in others[:PATHS_SHOWN]]
    paths += ["…"] if len(others) > PATHS_SHOWN else []
    more = f" (and {len(others)} more: {', '.join(paths)})" if others else ""
    return f"{_path(first, tree)}: {reason}{more}"


def _path(problem: ErrorDetails, tree: Any) -> str:
    """Where a problem is.

    A union puts the name of its member into the location; what is not in the
    input, and is not the missing or unknown key itself, is left out.
    """
    here, path = tree, ""
    for position, part in enumerate(problem["loc"]):
        known = (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if known:
            here = here[part]
        elif problem["type"] != "missing" or position < len(problem["loc"]) - 1:
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".") or "configuration"
