"""`mode: source`: llama-server, built from the sdist that vendors llama.cpp, and kept.

The sdist is data until its hash says that it is the one known here; it is unpacked by
tarfile's `data` filter, which refuses what leaves the directory, and within bounds.
The build is llama.cpp's own by cmake and ninja, with CUDA where the replica has cards.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

import anyio
import anyio.to_thread

from contracts.config import Pool, Source
from contracts.plans import MissingTool, PlanStep
from contracts.pools import FailureReason, Phase, Preparation
from pool_managerd.failure import LaunchRefused
from pool_managerd.provisioning import binary
from pool_managerd.provisioning.showing import launch_step
from pool_managerd.provisioning.tools import ProvisioningTools
from pool_managerd.provisioning.workshop import finish, key_of, making, run_tool
from worker_adapters.base import LaunchPlan, LaunchSpec

REQUIREMENT = "llama-cpp-python==0.3.36"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
MEMBERS_MAX = 50_000
BYTES_MAX = 2 * 1024**3
FLAGS = (
    *("-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_BUILD_TESTS=OFF"),
    *("-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF"),
    *("-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON"),
)
FETCH = (
    *("-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--no-deps"),
    *("--no-binary", "llama-cpp-python", "--progress-bar", "off", "--require-hashes", "-r"),
)
PACKAGES = {"cmake": "cmake", "ninja": "ninja-build", "c++": "g++"}
PROGRAM = "llama-server"

_STEP = re.compile(r"\[(\d{1,9})/(\d{1,9})\]")


async def provision(pool: Pool, spec: LaunchSpec, tools: ProvisioningTools) -> LaunchPlan:
    """The launch of one replica of what was built, which is built first if need be.

    Raises:
        LaunchRefused: a tool is missing, downloads are off, the sdist is not the
            known one, or the build failed.
    """
    async with making(tools.state_dir, _key(pool, spec)) as (place, room):
        if room is not None:
            await _make(pool, spec, room, place, tools)
    return binary.plan(pool, spec, str(place / PROGRAM))


def steps(pool: Pool, spec: LaunchSpec) -> list[PlanStep]:
    """Getting, unpacking and building it, once, and the launch."""
    config, place = _config(pool), Path("{state_dir}/engines") / _key(pool, spec)
    get = PlanStep(
        what=f"fetch {REQUIREMENT} (needs policy.downloads.allow)",
        argv=("{python}", *FETCH, "{requirements}"),
    )
    if config.sdist is not None:
        get = PlanStep(what=f"take {config.sdist}")
    configure, build = _builds(config, spec, Path(), Path("build"))
    return [
        get,
        PlanStep(what=f"check that its sha256 is {SDIST_SHA256}, and unpack it"),
        PlanStep(what="configure llama.cpp", argv=configure),
        PlanStep(what=f"build it, and keep it as {place / PROGRAM}", argv=build),
        launch_step(binary.plan(pool, spec, str(place / PROGRAM))),
    ]


def missing(pool: Pool, spec: LaunchSpec) -> list[MissingTool]:  # noqa: ARG001
    """The tools of a build."""
    lacks = [
        MissingTool(tool=tool, remedy=f"apt install {package}")
        for tool, package in PACKAGES.items()
        if binary.located(tool) is None
    ]
    if spec.device_uuids and binary.located("nvcc") is None:
        lacks.append(MissingTool(tool="nvcc", remedy="apt install nvidia-cuda-toolkit"))
    return lacks


async def _make(
    pool: Pool, spec: LaunchSpec, room: Path, place: Path, tools: ProvisioningTools
) -> None:
    lacks = await anyio.to_thread.run_sync(missing, pool, spec)
    if lacks:
        named = ", ".join(f"{lack.tool} (`{lack.remedy}`)" for lack in lacks)
        raise LaunchRefused(
            FailureReason.TOOL_MISSING,
            f"pool {pool.id}: building the engine needs {named}; then restart pool_managerd",
        )
    since_ms = tools.unix_ms()

    def tell(line: str) -> None:
        step = _STEP.search(line)
        done, total = (int(step[1]), int(step[2])) if step else (None, None)
        tools.preparing(
            Preparation(
                phase=Phase.BUILDING, what=PROGRAM, done=done, total=total, since_ms=since_ms
            )
        )

    config = _config(pool)
    try:
        tell("")
        sdist = await _sdist(pool, room, tools)
        tree = await anyio.to_thread.run_sync(_unpacked, sdist, room)
        for argv in _builds(config, spec, tree, room / "build"):
            await run_tool(argv, room, tell)
        built = room / "made"
        await anyio.to_thread.run_sync(_collect, room / "build" / "bin" / PROGRAM, built)
        finish(built, place)
    finally:
        tools.preparing(None)


async def _sdist(pool: Pool, room: Path, tools: ProvisioningTools) -> Path:
    """The verified sdist."""
    config = _config(pool)
    sdist = await _fetched(pool, room, tools) if config.sdist is None else Path(config.sdist)
    try:
        digest = await anyio.to_thread.run_sync(_sha256, sdist)
    except OSError as error:
        raise LaunchRefused(
            FailureReason.PROVISIONING_FAILED, f"provisioning.sdist: {sdist}: {error.strerror}"
        ) from error
    if digest != SDIST_SHA256:
        raise LaunchRefused(
            FailureReason.PROVISIONING_FAILED,
            f"{sdist} has sha256 {digest}, and {REQUIREMENT} has {SDIST_SHA256}",
        )
    return sdist


async def _fetched(pool: Pool, room: Path, tools: ProvisioningTools) -> Path:
    if not tools.downloads_allowed:
        raise LaunchRefused(
            FailureReason.DOWNLOAD_DENIED,
            f"pool {pool.id}: its engine is not built, and downloads are off; set"
            " policy.downloads.allow or provisioning.sdist, then restart pool_managerd",
        )
    directory = room / "sdist"
    directory.mkdir()
    # pip asks an sdist for its metadata, which runs its code: pip too must know the hash.
    wanted = room / "requirements.txt"
    wanted.write_text(f"{REQUIREMENT} --hash=sha256:{SDIST_SHA256}\n")
    argv = (sys.executable, *FETCH, str(wanted), "--dest", str(directory))
    await run_tool(argv, room, lambda _: None)
    found = sorted(directory.glob("*.tar.gz"))
    if not found:
        raise LaunchRefused(
            FailureReason.PROVISIONING_FAILED, f"pip fetched no sdist of {REQUIREMENT}"
        )
    return found[0]


def _unpacked(sdist: Path, room: Path) -> Path:
    """The llama.cpp tree of an sdist, within bounds."""
    tree, members, size = room / "tree", 0, 0
    tree.mkdir(mode=0o700)
    try:
        with tarfile.open(sdist, "r:gz") as archive:
            for member in archive:
                members, size = members + 1, size + member.size
                _refuse_if_too_much(members, size)
                if member.isreg() or member.isdir():
                    archive.extract(member, tree, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise LaunchRefused(
            FailureReason.PROVISIONING_FAILED, f"{sdist} cannot be unpacked: {error}"
        ) from error
    found = sorted(tree.glob("*/vendor/llama.cpp"))
    if not found:
        raise LaunchRefused(FailureReason.PROVISIONING_FAILED, f"{sdist} holds no vendor/llama.cpp")
    return found[0]


def _refuse_if_too_much(members: int, size: int) -> None:
    if members > MEMBERS_MAX or size > BYTES_MAX:
        raise tarfile.TarError("it holds more than a source tree does")


def _builds(
    config: Source, spec: LaunchSpec, tree: Path, build: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How it is configured, and how it is built."""
    cuda = ("-DGGML_CUDA=ON",) if spec.device_uuids else ()
    configure = ("cmake", "-S", str(tree), "-B", str(build), *FLAGS, *cuda, *config.cmake_args)
    jobs = str(config.jobs or os.cpu_count() or 1)
    return configure, ("cmake", "--build", str(build), "--target", PROGRAM, "-j", jobs)


def _collect(program: Path, made: Path) -> None:
    """The program alone: what it was built from is not kept."""
    if not program.is_file():
        raise LaunchRefused(FailureReason.PROVISIONING_FAILED, f"the build made no {program.name}")
    made.mkdir(mode=0o700)
    shutil.copy2(program, made / PROGRAM)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key(pool: Pool, spec: LaunchSpec) -> str:
    recipe = {"sdist": SDIST_SHA256, "cuda": bool(spec.device_uuids), "flags": FLAGS}
    return key_of(recipe | {"cmake_args": list(_config(pool).cmake_args)})


def _config(pool: Pool) -> Source:
    assert isinstance(pool.provisioning, Source)
    return pool.provisioning
