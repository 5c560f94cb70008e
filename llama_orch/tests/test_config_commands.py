"""`config init`, `check`, `schema`, `show`, and the examples."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path
from typing import get_args

import pytest

from contracts.config import Binary, Config, Embedded, Pool
from contracts.pools import PoolWorkload
from contracts.service.settings import read_config
from llama_orch.config_check import problems
from llama_orch.config_commands import config_yaml
from llama_orch.failures import ExitCode
from llama_orch.single_model import with_single_model
from llama_orch.tests.scripted_server import Run

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_init_writes_a_private_file_that_is_valid(run: Run, home: Path) -> None:
    """LO-CMD-041."""
    done = run("config", "init")
    path = home / ".config/llama-orch/config.yaml"
    assert done.stdout == f"{path}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_config(path, {"HOME": str(home)})[0].pools[0].model.id == "my-model"


def test_init_overwrites_by_force_only(run: Run, home: Path) -> None:
    """LO-CMD-041."""
    path = home / "mine.yaml"
    path.write_text("pools: []\n")
    refused = run("config", "init", "--config", str(path))
    assert refused.returncode == ExitCode.FAILED
    assert "--force" in refused.stderr
    assert path.read_text() == "pools: []\n"
    assert run("config", "init", "--config", str(path), "--force").returncode == ExitCode.OK
    assert "my-model" in path.read_text()


def test_check_of_the_starter_finds_the_missing_model_and_nothing_else(run: Run) -> None:
    """LO-CMD-040, LO-CMD-041."""
    run("config", "init")
    done = run(
        *("config", "check", "--json"),
        LLORCH_ORCHESTRATORD__PORT="0",
        LLORCH_POOL_MANAGERD__PORT="0",
    )
    assert done.returncode == ExitCode.FAILED
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert len(found["problems"]) == 1
    assert "pools[0].model.ref" in found["problems"][0]


def test_what_the_starter_spells_out_of_queue_and_sessions_is_the_default(
    run: Run, home: Path
) -> None:
    run("config", "init")
    path = home / ".config/llama-orch/config.yaml"
    written = read_config(path, {"HOME": str(home)})[0]
    assert (written.queue, written.sessions) == (Config().queue, Config().sessions)
    assert written.sessions.model_fields_set


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("QUEUE__POLICY", "drop-lru", ("queue", "policy", "drop-lru")),
        ("QUEUE__BATCH_MAX_WAIT_MS", "5", ("queue", "batch_max_wait_ms", 5)),
        ("SESSIONS__MAX_TURNS", "3", ("sessions", "max_turns", 3)),
        ("SESSIONS__BUDGET_COST", "0.5", ("sessions", "budget_cost", 0.5)),
        ("STREAMS__METRICS_INTERVAL_MS", "50", ("streams", "metrics_interval_ms", 50)),
    ],
)
def test_what_is_served_can_be_configured(
    run: Run, key: str, value: str, shown: tuple[str, str, object]
) -> None:
    done = run("config", "show", "--json", **{f"LLORCH_{key}": value})
    section, name, expected = shown
    assert json.loads(done.stdout)[section][name] == expected


def test_check_without_a_configuration_names_the_remedy(run: Run) -> None:
    done = run("config", "check")
    assert done.returncode == ExitCode.FAILED
    assert "llama-orch config init" in done.stderr


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("pols: []", "pols"),
        ("pools: 3", "pools"),
        ("queue: {capacity: 0}", "queue.capacity"),
        ("a: &x 1\nb: *x", "anchors"),
        ("\tpools: []", "line 1"),
    ],
)
def test_check_names_the_key_that_is_wrong(run: Run, home: Path, text: str, key: str) -> None:
    path = home / "bad.yaml"
    path.write_text(text)
    done = run("config", "check", "--config", str(path))
    assert done.returncode == ExitCode.FAILED
    assert key in done.stderr
    assert done.stderr.count("\n") == 1


def config_for(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(f"state_dir: {tmp_path}/state\n{text}")
    return read_config(path, {})[0]


def test_a_taken_port_is_a_problem(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = config_for(
            tmp_path, f"orchestratord: {{port: {port}}}\npool_managerd: {{port: 0}}\n"
        )
        found = list(problems(config))
    assert any(f"orchestratord: port {port} on 127.0.0.1 is taken" in line for line in found)


def test_a_bad_sampler_profile_is_a_problem(tmp_path: Path) -> None:
    """LO-ORC-177."""
    path = tmp_path / "state" / "sampler_profiles" / "greedy-1.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("top_k: 1\n")
    config = config_for(tmp_path, "orchestratord: {port: 0}\npool_managerd: {port: 0}\n")
    assert any(line.startswith(f"{path}: ") for line in problems(config))
    path.unlink()
    assert not any("profile" in line for line in problems(config))


def test_one_port_for_two_daemons_is_a_problem(tmp_path: Path) -> None:
    config = config_for(tmp_path, "orchestratord: {port: 9}\npool_managerd: {port: 9}\n")
    assert any("orchestratord's too" in line for line in problems(config))


def pool_of(model: Path, provisioning: str) -> str:
    return (
        "orchestratord: {port: 0}\npool_managerd: {port: 0}\n"
        f"pools: [{{id: a, engine: llamacpp, model: {{id: m, ref: 'file:{model}'}},"
        f" provisioning: {provisioning}}}]"
    )


def test_a_program_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF" + bytes(60))
    config = config_for(tmp_path, pool_of(model, "{mode: binary, path: no-such-llama-server}"))
    assert [line.partition(":")[0] for line in problems(config)] == ["pools[0].provisioning.path"]


def test_under_command_any_file_will_do_as_model(tmp_path: Path) -> None:
    model = tmp_path / "m.bin"
    model.write_bytes(b"anything")
    command = "{mode: command, command: ['sh', 'serve', '{port}']}"
    assert list(problems(config_for(tmp_path, pool_of(model, command)))) == []


def test_under_embedded_the_model_must_be_a_gguf_file(tmp_path: Path) -> None:
    model = tmp_path / "m.bin"
    model.write_bytes(b"anything")
    config = config_for(tmp_path, pool_of(model, "{mode: embedded}"))
    assert ["is not a GGUF file" in line for line in problems(config)] == [True]


def test_schema_is_the_schema_of_the_contract(run: Run) -> None:
    assert json.loads(run("config", "schema").stdout) == Config.model_json_schema()


def test_show_merges_the_environment_and_holds_no_secret(run: Run) -> None:
    done = run("config", "show", "--json", LLORCH_QUEUE__CAPACITY="7", LLORCH_API_TOKEN="hush-hush")
    assert json.loads(done.stdout)["queue"]["capacity"] == 7
    assert "hush-hush" not in done.stdout + done.stderr


@pytest.mark.parametrize("defaults", [True, False])
def test_a_configuration_reads_back_as_it_was_written(tmp_path: Path, defaults: bool) -> None:
    model = tmp_path / "it's: a #model.gguf"
    model.write_bytes(b"GGUF" + bytes(60))
    config = with_single_model(
        Config(state_dir=str(tmp_path)), model, ctx=64, slots=2, devices="cpu"
    )
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(config, defaults=defaults))
    assert read_config(path, {})[0] == config


def test_the_example_for_two_cards_is_valid() -> None:
    """LO-SYS-018."""
    config = read_config(EXAMPLES / "home_gpu.yaml", {"HOME": "/home/somebody"})[0]
    assert all(isinstance(pool.provisioning, Binary) for pool in config.pools)
    assert {card for pool in config.pools for card in cards(pool)} == {0, 1}


def test_the_example_for_a_laptop_is_valid() -> None:
    """LO-SYS-018."""
    config = read_config(EXAMPLES / "cpu_laptop.yaml", {"HOME": "/home/somebody"})[0]
    assert all(isinstance(pool.provisioning, Embedded) for pool in config.pools)
    assert all(cards(pool) == [] for pool in config.pools)


def test_the_example_of_engines_is_valid_and_has_a_pool_of_each_way() -> None:
    """LO-SYS-018."""
    config = read_config(EXAMPLES / "engines.yaml", {"HOME": "/home/somebody"})[0]
    modes = {pool.provisioning.mode for pool in config.pools}
    assert modes == {
        *("binary", "command", "container", "embedded", "external", "package", "source")
    }
    assert {pool.workload for pool in config.pools} == set(get_args(PoolWorkload))
    engines = get_args(Pool.model_fields["engine"].annotation)
    assert {pool.engine for pool in config.pools} == set(engines)


def cards(pool: Pool) -> list[int | str]:
    return [card for replica in pool.replicas for card in replica.devices or ()]
