"""Why a replica does not serve: its model, its last words, its key."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from contracts.pools import FailureReason, ReplicaState
from contracts.service.failpoints import Failpoints
from pool_managerd.clock import SystemClock
from pool_managerd.domain.replica_state import Move
from pool_managerd.launch_tools import LaunchTools
from pool_managerd.leasing import Leasing
from pool_managerd.models.digest import ModelDigests
from pool_managerd.process_life import ProcessLife
from pool_managerd.replica import Replica, ReplicaEntry
from pool_managerd.run_records import RunRecords
from pool_managerd.telemetry.none import NoSource
from pool_managerd.telemetry.sampler import Sampler
from test_harness.downloads import MIB, content_of, downloading, sha256
from test_harness.gguf_files import file_of, numbers, tensor
from test_harness.model_server import ModelServer
from test_harness.supervised import PATIENCE, SupervisorHarness
from worker_adapters.transport import EngineTransport

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
S = ReplicaState
SLOW = {"base_ms": 60_000, "cap_ms": 60_000}


def argv_of(pid: int | None) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_digest_is_learned_beside_the_start(harness: SupervisorHarness) -> None:
    async with harness.supervise(harness.pool()) as it:
        await it.until(lambda replica: replica.model_digest is not None)
        digest = it.replica.model_digest
    model = {"id": "m", "ref": f"file:{harness.model}", "digest": digest}
    async with harness.supervise(harness.pool(model=model)) as it:
        await it.until_state(S.READY)


async def test_a_model_of_another_digest_never_serves(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-POOL-014, LO-POOL-024: also where hashing takes longer than loading."""
    digest_of = ModelDigests.of

    async def slowly(self: ModelDigests, model: Path) -> str:
        await anyio.sleep(1.5)
        return await digest_of(self, model)

    monkeypatch.setattr(ModelDigests, "of", slowly)
    model = {"id": "m", "ref": f"file:{harness.model}", "digest": f"sha256:{'0' * 64}"}
    async with harness.supervise(harness.pool(model=model)) as it:
        await it.until_state(S.FAILED)
        error = it.replica.last_error
    assert error is not None
    assert error.reason is FailureReason.MODEL_INVALID
    assert "model.digest asks for" in error.message
    assert S.READY not in it.states


async def test_a_missing_model_is_given_up_at_once_by_its_path(harness: SupervisorHarness) -> None:
    """LO-POOL-013, LO-POOL-024."""
    pool = harness.pool(model={"id": "m", "ref": "file:/no/such.gguf"})
    async with harness.supervise(pool) as it:
        await it.until_state(S.FAILED)
        error = it.replica.last_error
    assert error is not None
    assert error.reason is FailureReason.MODEL_MISSING
    assert "/no/such.gguf" in error.message
    assert it.states[:2] == [S.PROVISIONING, S.FAILED]


async def test_a_model_is_downloaded_under_way_to_serving(
    harness: SupervisorHarness, tmp_path: Path
) -> None:
    """LO-POOL-121: how far it has come is in the view, until it is there."""
    server = ModelServer(files={"/bucket/m.gguf": content_of(2 * MIB)})
    server.faults["/bucket/m.gguf"] = ["stall", "ok"]
    pool = harness.pool(model={"id": "m", "ref": "s3:bucket/m.gguf"})
    async with server.serving():
        changes = {"s3": {"endpoint": server.url}, "stall_timeout_ms": 300}
        async with downloading(tmp_path / "d", changes) as models:
            async with harness.supervise(pool, models=models.resolver) as it:
                await it.until(lambda replica: replica.preparation is not None)
                view = it.replica.view(0)
                await it.until_state(S.READY)
                ready = it.replica.view(0)
    assert view.preparation is not None
    assert view.state is S.PROVISIONING
    assert ready.preparation is None
    assert ready.model_digest in (None, sha256(content_of(2 * MIB)))


async def test_a_model_that_may_not_be_downloaded_says_which_key_is_off(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-111."""
    pool = harness.pool(model={"id": "m", "ref": "hf:o/r/m.gguf"}, restart=SLOW)
    async with harness.supervise(pool) as it:
        await it.until(lambda replica: replica.last_error is not None)
        error = it.replica.last_error
    assert error is not None
    assert error.reason is FailureReason.DOWNLOAD_DENIED
    assert error.message.startswith("pools[0].model: hf:o/r/m.gguf: downloads are off")
    assert "policy.downloads.allow" in error.message


async def test_a_start_can_be_made_to_fail_before_there_is_a_process(
    harness: SupervisorHarness,
) -> None:
    failpoints = Failpoints.parsed("pool_managerd", "replica.spawn=1*error(ENOSPC)")
    clock = SystemClock()
    replica = Replica(ReplicaEntry(harness.pool(), 0, 0), clock, lambda _: None)
    async with EngineTransport() as transport:
        tools = LaunchTools(
            clock=clock,
            leasing=Leasing({}, clock, lambda: None, failpoints),
            patience=PATIENCE,
            start_timeout_s=10.0,
            records=RunRecords(harness.state_dir),
            telemetry=Sampler(NoSource(), clock, lambda: None),
            digests=ModelDigests(harness.state_dir),
            transport=transport,
            state_dir=harness.state_dir,
            stop_grace_ms=1_000,
            failpoints=failpoints,
        )
        replica.move(Move.START)
        with anyio.fail_after(10):
            failure = await ProcessLife(replica, tools).live(anyio.lowlevel.checkpoint)
    assert failure.reason is FailureReason.EXITED
    assert "No space left on device (failpoint)" in failure.message
    assert replica.pid is None
    assert RunRecords(harness.state_dir).read_all() == []


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("bad-model", FailureReason.MODEL_INVALID, "damaged"),
        ("out-of-memory", FailureReason.VRAM_OOM, "lower `ctx` or `slots`"),
        ("gpu-lost", FailureReason.GPU_LOST, "`nvidia-smi`"),
        ("bad-argument", FailureReason.BAD_ARGUMENT, "engine_args"),
        ("port-taken", FailureReason.PORT_TAKEN, "another one is tried"),
    ],
)
async def test_last_words_become_a_reason_and_a_remedy(
    harness: SupervisorHarness, fault: str, reason: FailureReason, words: str
) -> None:
    """LO-POOL-015."""
    pool = harness.pool("--fault", fault, restart=SLOW)
    async with harness.supervise(pool) as it:
        await it.until(lambda replica: replica.last_error is not None)
        error = it.replica.last_error
    assert error is not None
    assert error.reason is reason
    assert words in error.message


async def test_a_crash_is_named_by_its_signal(harness: SupervisorHarness) -> None:
    async with harness.supervise(harness.pool("--fault", "crash-after-0")) as it:
        await it.until(lambda replica: replica.last_error is not None)
        error = it.replica.last_error
    assert error is not None
    assert error.reason is FailureReason.CRASH
    assert "SIGSEGV" in error.message


async def test_the_key_of_a_launch_is_in_no_argument_log_or_record(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-036."""
    async with harness.supervise(harness.pool()) as it:
        await it.until_state(S.READY)
        assert it.replica.endpoint is not None
        key = it.replica.endpoint.api_key
        assert key is not None
        assert key.encode() not in argv_of(it.replica.pid)
        assert key not in repr(it.replica.endpoint)
        for file in harness.state_dir.rglob("*.*"):
            assert key.encode() not in file.read_bytes()
            assert file.stat().st_mode & 0o077 == 0 or file.suffix == ".json"


async def test_an_engine_that_cannot_be_made_is_a_failure_of_its_pool_alone(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-104: its directory is a file, as bad as a full disk."""
    (harness.state_dir / "engines").write_text("")
    geometry = numbers(
        block_count=1, context_length=64, embedding_length=8, attention__head_count=1
    )
    table = (tensor("token_embd.weight", 8, 4),)
    model = file_of(harness.root, *geometry, tensors=table, data=128)
    pool = harness.pool(
        model={"id": "m", "ref": f"file:{model}"},
        provisioning={"mode": "package", "requirements": ["x"], "command": ["x"]},
        restart=SLOW,
    )
    async with harness.supervise(pool) as it:
        await it.until(lambda replica: replica.last_error is not None)
        error = it.replica.last_error
    assert error is not None
    assert error.reason is FailureReason.PROVISIONING_FAILED
