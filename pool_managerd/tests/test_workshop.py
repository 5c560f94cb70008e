"""Engines that are made on this machine, by stand-in tools, and by pip itself."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import anyio
import pytest

from contracts.config import Pool
from contracts.pools import FailureReason, Phase, Preparation
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.resolve import ModelResolver
from pool_managerd.procfs import session_members
from pool_managerd.provisioning import source
from pool_managerd.provisioning.registry import MODES
from pool_managerd.provisioning.tools import ProvisioningTools
from test_harness.gguf_files import file_of, numbers, tensor
from test_harness.supervised import SupervisorHarness
from worker_adapters.base import LaunchPlan, LaunchSpec

pytestmark = pytest.mark.anyio

CMAKE = """#!/bin/sh
echo $$ >> "$(dirname "$0")/runs"
case "$1" in
  -S) mkdir -p "$4/bin"; exit 0 ;;
  --build)
    if [ -f "$(dirname "$0")/slow" ]; then sleep 600; fi
    if [ -f "$(dirname "$0")/broken" ]; then
      echo "error: no such header"; printf "in the middle"; exit 2
    fi
    echo "[1/2] one"; echo "[2/2] two"
    printf '#!/bin/sh\\n' > "$2/bin/llama-server"; chmod 700 "$2/bin/llama-server" ;;
esac
"""


class Workshop:
    """A state directory, tools on PATH, and a small sdist."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.tools = root / "tools"
        self.tools.mkdir()
        for name in ("cmake", "ninja", "c++", "nvcc"):
            (self.tools / name).write_text(CMAKE)
            (self.tools / name).chmod(0o700)
        monkeypatch.setenv("PATH", f"{self.tools}:/usr/bin:/bin")
        self.told: list[Preparation | None] = []
        self.sdist = root / "engine.tar.gz"
        self.pack({"engine-1/vendor/llama.cpp/CMakeLists.txt": b"x"})
        monkeypatch.setattr(source, "SDIST_SHA256", self.digest())
        self.monkeypatch = monkeypatch

    def pack(self, files: dict[str, bytes], *links: tuple[str, str]) -> None:
        with tarfile.open(self.sdist, "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            for name, target in links:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = tarfile.SYMTYPE, target
                archive.addfile(member)

    def digest(self) -> str:
        return hashlib.sha256(self.sdist.read_bytes()).hexdigest()

    def pool(self, **provisioning: Any) -> Pool:
        provisioning = {"mode": "source", "sdist": str(self.sdist)} | provisioning
        return Pool.model_validate(
            {
                "id": "p",
                "engine": "llamacpp",
                "model": {"id": "q", "ref": "file:/models/q.gguf"},
                "provisioning": provisioning,
            },
            strict=False,
        )

    async def provision(self, *, allowed: bool = False, **provisioning: Any) -> LaunchPlan:
        tools = ProvisioningTools(
            state_dir=self.root / "state",
            downloads_allowed=allowed,
            models=ModelResolver.files_only(),
            preparing=self.told.append,
            unix_ms=lambda: 1,
            holder="p/0",
        )
        pool = self.pool(**provisioning)
        return await MODES[pool.provisioning.mode].provision(pool, SPEC, tools)

    def runs(self) -> list[int]:
        found = self.tools / "runs"
        return [int(pid) for pid in found.read_text().split()] if found.exists() else []

    def made(self, plan: LaunchPlan) -> bool:
        return Path(plan.argv[0]).is_file()

    def evil(self) -> list[Path]:
        return [*self.root.rglob("evil"), *Path("/").glob("evil")]

    def left(self) -> list[str]:
        engines = self.root / "state" / "engines"
        return sorted(path.name for path in engines.iterdir() if "making" in path.name)


SPEC = LaunchSpec(
    model_path=Path("/models/q.gguf"),
    model_alias="q",
    host="127.0.0.1",
    port=4711,
    ctx=100,
    slots=1,
    device_uuids=(),
    engine_args=(),
    api_key="sekret",
)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(tmp_path, monkeypatch)


async def test_an_engine_is_built_once_and_its_progress_told(workshop: Workshop) -> None:
    """LO-POOL-104, LO-POOL-105: two that want it at once share one build."""
    plans: list[LaunchPlan] = []

    async def want() -> None:
        plans.append(await workshop.provision())

    async with anyio.create_task_group() as group:
        group.start_soon(want)
        group.start_soon(want)
    plans.append(await workshop.provision())
    assert len(workshop.runs()) == 2  # configured, and built
    assert len({plan.argv for plan in plans}) == 1
    assert Path(plans[0].argv[0]).name == "llama-server"
    assert workshop.made(plans[0])
    steps = [(told.done, told.total) for told in workshop.told if told is not None]
    assert (1, 2) in steps
    assert {told.phase for told in workshop.told if told} == {Phase.BUILDING}
    assert workshop.told[-1] is None
    assert workshop.left() == []


async def test_a_build_that_fails_tells_its_last_lines_and_leaves_nothing(
    workshop: Workshop,
) -> None:
    """LO-POOL-104."""
    (workshop.tools / "broken").touch()
    with pytest.raises(LaunchRefused, match="no such header") as caught:
        await workshop.provision()
    assert "in the middle" in caught.value.failure.message
    assert caught.value.failure.reason is FailureReason.PROVISIONING_FAILED
    assert workshop.left() == []
    (workshop.tools / "broken").unlink()
    assert workshop.made(await workshop.provision())


async def test_a_build_that_is_canceled_ends_with_all_its_processes(workshop: Workshop) -> None:
    """LO-POOL-104."""
    (workshop.tools / "slow").touch()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(workshop.provision)
            while len(workshop.runs()) < 2:  # noqa: ASYNC110 - what is waited for is on disk
                await anyio.sleep(0.02)
            group.cancel_scope.cancel()
    assert session_members(workshop.runs()[-1]) == []
    assert workshop.left() == []


@pytest.mark.parametrize(
    ("files", "links"),
    [
        ({"../evil": b"x"}, ()),
        ({"/evil": b"x"}, ()),
        ({"engine-1/other": b"x"}, ()),
    ],
    ids=["above", "absolute", "no-tree"],
)
async def test_an_sdist_that_is_no_source_tree_is_refused(
    workshop: Workshop, files: dict[str, bytes], links: tuple[tuple[str, str], ...]
) -> None:
    """LO-POOL-106: even one whose digest is the known one."""
    workshop.pack(files, *links)
    workshop.monkeypatch.setattr(source, "SDIST_SHA256", workshop.digest())
    with pytest.raises(LaunchRefused) as caught:
        await workshop.provision()
    assert caught.value.failure.reason is FailureReason.PROVISIONING_FAILED
    assert not workshop.evil()
    assert workshop.runs() == []


async def test_an_sdist_with_too_many_members_or_another_digest_is_refused(
    workshop: Workshop,
) -> None:
    """LO-POOL-106."""
    workshop.monkeypatch.setattr(source, "MEMBERS_MAX", 0)
    with pytest.raises(LaunchRefused, match="more than a source tree"):
        await workshop.provision()
    workshop.monkeypatch.setattr(source, "SDIST_SHA256", "0" * 64)
    with pytest.raises(LaunchRefused, match="has sha256"):
        await workshop.provision()


async def test_no_code_of_an_sdist_is_run_before_its_hash_is_known(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-POOL-106: pip, too, refuses another one than the known."""
    name, ran = "llama_cpp_python-0.3.36", workshop.root / "ran"
    project = (
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "llama-cpp-python"\nversion = "0.3.36"\n'
    )
    about = b"Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 0.3.36\n"
    backend = f"open({str(ran)!r}, 'w').close()\n".encode()
    workshop.sdist = workshop.root / "links" / f"{name}.tar.gz"
    workshop.sdist.parent.mkdir()
    files = {"PKG-INFO": about, "pyproject.toml": project.encode(), "backend.py": backend}
    workshop.pack({f"{name}/{path}": content for path, content in files.items()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(workshop.sdist.parent))
    with pytest.raises(LaunchRefused, match="Expected sha256"):
        await workshop.provision(allowed=True, sdist=None)
    assert not ran.exists()


@pytest.mark.slow
async def test_packages_are_installed_once_into_an_environment_of_their_own(
    workshop: Workshop,
) -> None:
    """LO-POOL-107: by pip, from a package on this machine."""
    project = workshop.root / "project"
    (project / "an_engine").mkdir(parents=True)
    (project / "an_engine" / "__init__.py").write_text("")
    (project / "an_engine" / "__main__.py").write_text("print('it runs')")
    (project / "pyproject.toml").write_text(
        '[project]\nname = "an-engine"\nversion = "1"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (project / "backend.py").write_text(BACKEND)
    provisioning = {
        "mode": "package",
        "requirements": [str(project)],
        "command": ["python", "-m", "an_engine", "{port}"],
    }
    pool = Pool.model_validate(
        workshop.pool().model_dump() | {"provisioning": provisioning}, strict=False
    )
    tools = ProvisioningTools(
        workshop.root / "state",
        downloads_allowed=True,
        models=ModelResolver.files_only(),
        preparing=workshop.told.append,
        unix_ms=lambda: 1,
        holder="p/0",
    )
    plan = await MODES["package"].provision(pool, SPEC, tools)
    assert plan.argv[1:] == ("-m", "an_engine", "4711")
    done = await anyio.run_process(list(plan.argv))
    assert done.stdout == b"it runs\n"
    assert {told.phase for told in workshop.told if told} == {Phase.INSTALLING}
    workshop.told.clear()
    assert await MODES["package"].provision(pool, SPEC, tools) == plan
    assert workshop.told == []


BACKEND = """
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "an_engine-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        for part in ("__init__", "__main__"):
            wheel.write(f"an_engine/{part}.py")
        info = "an_engine-1.dist-info"
        about = "Metadata-Version: 2.1\\nName: an-engine\\nVersion: 1\\n"
        wheel.writestr(f"{info}/METADATA", about)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


def a_model(root: Path) -> Path:
    geometry = numbers(
        block_count=1, context_length=64, embedding_length=8, attention__head_count=1
    )
    return file_of(root, *geometry, tensors=(tensor("token_embd.weight", 8, 4),), data=128)


# A runtime that starts the stand-in engine where docker would start a container, in a
# session that is not its own, and ends it by its name.
RUNTIME = """#!{python}
import os, pathlib, signal, subprocess, sys
here = pathlib.Path(__file__).parent
name = sys.argv[sys.argv.index("--name") + 1] if "--name" in sys.argv else sys.argv[-1]
if sys.argv[1] == "image":
    sys.exit(0)
if sys.argv[1] == "rm":
    pid = int((here / name).read_text())
    os.killpg(pid, signal.SIGKILL)
    sys.exit(0)
host, port, _ = sys.argv[sys.argv.index("--publish") + 1].split(":")
argv = [sys.executable, "-m", "test_harness.fake_engines.llamacpp", "--port", port]
argv += ["--api-key", os.environ["LLAMA_API_KEY"]]
engine = subprocess.Popen(argv, start_new_session=True)
(here / name).write_text(str(engine.pid))
sys.exit(engine.wait())
"""


@pytest.mark.slow
async def test_a_container_lives_and_ends_beside_its_client(
    tmp_path: Path, harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-POOL-108: the client of the runtime is our process, the engine is not."""
    program = tmp_path / "docker"
    program.write_text(RUNTIME.replace("{python}", sys.executable))
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    model = {"id": "m", "ref": f"file:{a_model(tmp_path)}"}
    pool = harness.pool(provisioning={"mode": "container", "image": "llama:1"}, model=model)
    async with harness.supervise(pool) as it:
        await it.until(lambda replica: replica.state == "ready")
        (name,) = tmp_path.glob("llama-orch-*-p-0")  # noqa: ASYNC240 - a test may wait
        engine = int(name.read_text())
        assert session_members(engine) == [engine]
        assert it.replica.pid != engine
    assert session_members(engine) == []
