"""The configuration and the environment: what is taken, and how it is refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import yaml

from contracts.config import Config
from contracts.service.config_source import CONFIG_BYTES_MAX, default_config_path
from contracts.service.settings import (
    ConfigError,
    Secret,
    Settings,
    check_files,
    child_environment,
    client_environment,
    is_loopback,
    load_settings,
    model_file,
    read_config,
    read_secret_file,
)

POOL = """
pools:
  - id: chat
    engine: llamacpp
    model: {id: m, ref: "file:/models/m.gguf"}
    provisioning: {mode: embedded}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def reading(tmp_path: Path, text: str, **environ: str) -> Config:
    return read_config(written(tmp_path, text), environ)[0]


def refusal(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        reading(tmp_path, text, **environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert reading(tmp_path, "") == Config()
    assert reading(tmp_path, "{}") == Config()
    assert reading(tmp_path, "pools: []\n# nothing more\n") == Config()


def test_lists_become_tuples_and_words_stay_words(tmp_path: Path) -> None:
    config = reading(
        tmp_path,
        POOL.replace("embedded", "command, command: ['{port}', on, 12:30, 2020-01-01, 010, 0x1F]"),
    )
    assert config.pools[0].provisioning.command == (  # type: ignore[union-attr]
        *("{port}", "on", "12:30", "2020-01-01", "010", "0x1F"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nope: 1", "nope: unknown key"),
        ("limits: {nope: 1}", "limits.nope: unknown key"),
        ("pools: 3", "pools: Input should be a valid array, not 3"),
        ("orchestratord: {port: 99999}", "orchestratord.port: Input should be less than or equal"),
        ("orchestratord: {port: '80'}", "orchestratord.port: Input should be a valid integer"),
        ("orchestratord: {port: true}", "orchestratord.port: Input should be a valid integer"),
        ("orchestratord: {port: 80.0}", "orchestratord.port: Input should be a valid integer"),
        ("orchestratord: {host: x}", "orchestratord.port: required"),
        ("limits: {body_bytes: -1}", "limits.body_bytes: Input should be greater than or equal"),
        ("limits: {body_bytes: 1" + "0" * 40 + "}", "limits.body_bytes: Input should be a valid"),
        ("limits: {body_bytes: 1e9, nope: 1}", "(and 1 more: limits.nope)"),
        ("limits: {body_bytes: .inf}", "limits.body_bytes: Input should be a valid integer"),
        ("auth: {tls: {cert: a}}", "auth.tls: set both `cert` and `key`, or neither"),
        ("gpus: {source: file}", "gpus: `file` goes with `source: file`"),
        ("artifacts: {max_bytes: 3}", "artifacts: not served by this version"),
        ("queue: {policy: drop}", "queue.policy: Input should be 'reject' or 'drop-lru'"),
        (POOL.replace("id: chat", "id: 'a b'"), "pools[0].id: String should match pattern"),
        (POOL + "    ctx: 0\n", "pools[0].ctx: Input should be greater than or equal to 16, not 0"),
        (POOL.replace("embedded", "magic"), "pools[0].provisioning: "),
        (POOL.replace("embedded", "binary"), "pools[0].provisioning: set either `path`, or `url`"),
        (POOL.replace("embedded", "embedded, x: 1"), "pools[0].provisioning.x: unknown key"),
        (POOL.replace("llamacpp", "openai"), "pools[0]: provisioning `embedded` serves engine"),
        (POOL + "    replicas: [{devices: [0]}]\n", "pools[0]: provisioning `embedded` runs on"),
        (POOL + "    replicas: [{devices: [-1]}]\n", "pools[0].replicas[0].devices[0]: "),
        (POOL + POOL.replace("pools:\n", ""), "two pools are named `chat`"),
        ("a: 1\na: 2", "line 2: the key `a` is repeated"),
        ("limits: {a: 1, a: 2}", "line 1: the key `a` is repeated"),
        ("? [a]\n: 1", "line 1: a key must be a plain word"),
        ("a: &x 1\nb: *x", "line 1: anchors and aliases are not taken"),
        ("a: !!python/object/apply:os.system [id]", "line 1: tags such as"),
        ("a: !!binary aGk=", "line 1: tags such as"),
        ("<<: {a: 1}", "<<: unknown key"),
        ("a: [1", "line "),
        ("a: 1\n---\nb: 1", "line 2: but found another document"),
        ("just words", "must hold keys and values"),
        ("- a", "must hold keys and values"),
        ("a: " + "[" * 40 + "]" * 40, "more than 32 levels"),
        ("\x00", "not YAML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(
    tmp_path: Path, text: str, message: str
) -> None:
    """LO-SYS-012, LO-SYS-016."""
    assert message in refusal(tmp_path, text)


def test_an_alias_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    """LO-SYS-016."""
    bomb = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    assert "anchors and aliases" in refusal(tmp_path, bomb)


def test_a_megabyte_of_small_values_is_refused_before_it_is_built(tmp_path: Path) -> None:
    assert "more than 50000 keys and values" in refusal(tmp_path, "pools:\n" + "- a\n" * 250_000)


def test_a_text_value_is_never_shown(tmp_path: Path) -> None:
    assert "hunter2" not in refusal(tmp_path, "auth: {allowed_hosts: hunter2}")
    assert "hunter2" not in refusal(tmp_path, "gpus: {source: hunter2}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "llama-orch config init"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b"\xff"), "byte 0 is not UTF-8"),
        (lambda path: path.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1)), "larger than 1048576 bytes"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    ],
)
def test_a_file_that_cannot_be_the_config_is_named(tmp_path, make, message) -> None:  # type: ignore[no-untyped-def]
    """LO-SYS-016."""
    path = tmp_path / "config.yaml"
    make(path)
    with pytest.raises(ConfigError) as caught:
        read_config(path, {})
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_the_config_is_found_by_flag_then_variable_then_xdg_then_home(tmp_path: Path) -> None:
    """LO-SYS-010."""
    environ = {"LLORCH_CONFIG": "/no/such.yaml", "HOME": "/h"}
    assert read_config(written(tmp_path, ""), environ)[1] == tmp_path / "config.yaml"
    assert default_config_path({"LLORCH_CONFIG": "~/c.yaml", "HOME": "/h"}) == Path("/h/c.yaml")
    assert default_config_path({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path(
        "/x/llama-orch/config.yaml"
    )
    assert default_config_path({"HOME": "/h"}) == Path("/h/.config/llama-orch/config.yaml")


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("LLORCH_QUEUE__CAPACITY", "8", "queue.capacity", 8),
        ("LLORCH_ORCHESTRATORD__PORT", "0", "orchestratord.port", 0),
        ("LLORCH_STATE_DIR", "/s", "state_dir", "/s"),
        ("LLORCH_OBSERVABILITY__METRICS_PUBLIC", "true", "observability.metrics_public", True),
        ("LLORCH_AUTH__ALLOWED_HOSTS", '["a","b"]', "auth.allowed_hosts", ("a", "b")),
        ("LLORCH_POOLS__0__CTX", "2048", "pools.0.ctx", 2048),
        ("LLORCH_POOLS__0__MODEL__ID", "other", "pools.0.model.id", "other"),
        ("LLORCH_POOLS", "[]", "pools", ()),
    ],
)
def test_a_variable_overrides_its_key(
    tmp_path: Path, name: str, value: str, key: str, expected: object
) -> None:
    """LO-SYS-011."""
    found: object = reading(tmp_path, POOL, **{name: value})
    for part in key.split("."):
        found = found[int(part)] if isinstance(found, tuple) else getattr(found, part)
    assert found == expected


def test_a_pool_can_be_added_by_variables(tmp_path: Path) -> None:
    pool = json.dumps(yaml.safe_load(POOL)["pools"][0] | {"id": "second"})
    config = reading(tmp_path, POOL, LLORCH_POOLS__1=pool)
    assert [found.id for found in config.pools] == ["chat", "second"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LLORCH_NOPE", "1", "LLORCH_NOPE: no such setting"),
        ("LLORCH_", "1", "LLORCH_: no such setting"),
        ("LLORCH_QUEUE__NOPE", "1", "queue.nope: unknown key"),
        ("LLORCH_QUEUE__CAPACITY", "many", "queue.capacity: Input should be a valid integer"),
        ("LLORCH_QUEUE__CAPACITY__X", "1", "LLORCH_QUEUE__CAPACITY__X: `queue.capacity` has no"),
        ("LLORCH_POOLS__7__CTX", "1", "LLORCH_POOLS__7__CTX: `7` is not an index from 0 to 1"),
        ("LLORCH_POOLS__X__CTX", "1", "LLORCH_POOLS__X__CTX: `x` is not an index"),
        ("LLORCH_QUEUE", "[", "LLORCH_QUEUE: line "),
        ("LLORCH_POOLS__0__CTX", "{a: &x 1, b: *x}", "anchors and aliases"),
    ],
)
def test_a_variable_that_fits_nothing_is_refused_by_name(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    """LO-SYS-014."""
    text = POOL + "queue: {capacity: 4}\n"
    assert message in refusal(tmp_path, text, **{name: value})


def test_reserved_variables_are_not_settings(tmp_path: Path) -> None:
    names = (
        "API_TOKEN",
        "CONFIG",
        "URL",
        "BDD_FEATURE_PATH",
        "LLAMA_SERVER",
        "TGI_URL",
        "PROOF_DIR",
    )
    assert reading(tmp_path, "", **{f"LLORCH_{name}": "x" for name in names}) == Config()


def loading(tmp_path: Path, text: str = "", **environ: str) -> Settings:
    path = written(tmp_path, f"state_dir: {tmp_path / 'state'}\n{text}")
    return load_settings(path, environ=environ)


def test_a_first_start_makes_a_private_state_dir_and_token(tmp_path: Path) -> None:
    """LO-SYS-030, LO-SYS-031."""
    first = loading(tmp_path)
    second = loading(tmp_path)
    token = tmp_path / "state" / "token"
    assert first.token.reveal() == second.token.reveal() == token.read_text().strip()
    assert len(first.token.reveal()) >= 43
    assert token.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["token"]


def test_daemons_that_start_at_once_agree_on_the_token(tmp_path: Path) -> None:
    gate = threading.Barrier(8)
    found: list[str] = []

    def start() -> None:
        gate.wait()
        found.append(load_settings(path, environ={}).token.reveal())

    path = written(tmp_path, f"state_dir: {tmp_path / 'state'}\n")
    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_the_token_file_goes_before_the_variable_and_it_before_the_made_one(
    tmp_path: Path,
) -> None:
    """LO-SYS-030."""
    file = tmp_path / "secret"
    file.write_text("from-file\r\n")
    file.chmod(0o600)
    config = f"auth: {{token_file: {file}}}\n"
    assert loading(tmp_path, config, LLORCH_API_TOKEN="env").token.reveal() == "from-file"
    assert loading(tmp_path, LLORCH_API_TOKEN="env").token.reveal() == "env"
    assert not (tmp_path / "state" / "token").exists()


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"token\n", 0o644, "chmod 600"),
        (b"token\n", 0o640, "chmod 600"),
        (b"", 0o600, "1 to 512 printable ASCII"),
        (b"two words", 0o600, "1 to 512 printable ASCII"),
        (b"t\xc3\xa9", 0o600, "1 to 512 printable ASCII"),
        (b"a\nb", 0o600, "1 to 512 printable ASCII"),
        (b"x" * 513, 0o600, "1 to 512 printable ASCII"),
    ],
)
def test_a_bad_token_file_is_refused_without_its_content(
    tmp_path: Path, content: bytes, mode: int, message: str
) -> None:
    """LO-SYS-032."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        loading(tmp_path, f"auth: {{token_file: {file}}}")
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "two words" not in str(caught.value)


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        loading(tmp_path, f"auth: {{token_file: {tmp_path / 'none'}}}")
    with pytest.raises(ConfigError, match="No such file"):
        read_secret_file(tmp_path / "none")


def test_a_state_dir_others_can_enter_is_refused(tmp_path: Path) -> None:
    """LO-SYS-031."""
    (tmp_path / "state").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        loading(tmp_path)


def test_failpoints_need_test_mode(tmp_path: Path) -> None:
    """LO-SYS-015."""
    with pytest.raises(ConfigError, match="--test-mode"):
        loading(tmp_path, LLORCH_FAILPOINTS="a=1*kill")
    settings = load_settings(
        tmp_path / "config.yaml", test_mode=True, environ={"LLORCH_FAILPOINTS": "a=1*kill"}
    )
    assert settings.failpoints == "a=1*kill"


EXPOSED = "orchestratord: {host: 0.0.0.0, port: 0}\n"
TLS = "auth: {tls: {cert: c.pem, key: k.pem}}\n"


def test_off_loopback_needs_tls_and_a_chosen_strong_token(tmp_path: Path) -> None:
    """LO-SYS-034."""
    for text, environ, message in [
        (EXPOSED, {"LLORCH_API_TOKEN": "x" * 32}, "auth.tls.cert"),
        (EXPOSED + TLS, {}, "set auth.token_file or LLORCH_API_TOKEN"),
        (EXPOSED + TLS, {"LLORCH_API_TOKEN": "short"}, "at least 16 characters"),
    ]:
        with pytest.raises(ConfigError) as caught:
            loading(tmp_path, text, **environ)
        assert str(caught.value).startswith("orchestratord.host: 0.0.0.0 is not loopback")
        assert message in str(caught.value)
    assert loading(tmp_path, EXPOSED + TLS, LLORCH_API_TOKEN="x" * 16)


def test_loopback_is_known_by_name_and_address() -> None:
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.evil", "", "127.0.0.1.evil", "127.1"):
        assert not is_loopback(host), host


def test_a_secret_shows_itself_to_nobody() -> None:
    """LO-SYS-032, LO-SYS-033."""
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret.matches(b"hunter2")
    for candidate in (b"", b"hunter", b"hunter22", b"\xff", b"x" * 1_048_576):
        assert not secret.matches(candidate)


def test_a_child_gets_an_allow_list_and_no_token() -> None:
    """LO-SYS-035."""
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "LLORCH_API_TOKEN": "t",
        "LLORCH_FAILPOINTS": "f",
        "AWS_SECRET_ACCESS_KEY": "s",
        "CUDA_VISIBLE_DEVICES": "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert child_environment({"A": "1"}, environ) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "A": "1",
    }


def test_the_command_reads_url_and_token() -> None:
    found = client_environment({"LLORCH_URL": "http://x", "LLORCH_API_TOKEN": "t", "HOME": "/h"})
    assert found.url == "http://x"
    assert found.token is not None
    assert found.token.reveal() == "t"
    assert client_environment({}).token is None
    with pytest.raises(ConfigError, match="LLORCH_API_TOKEN"):
        client_environment({"LLORCH_API_TOKEN": "a b"})


def test_a_model_file_is_named_by_its_ref() -> None:
    environ = {"HOME": "/h"}
    assert model_file("file:/m/x.gguf", environ) == Path("/m/x.gguf")
    assert model_file("file:///m/x.gguf", environ) == Path("/m/x.gguf")
    assert model_file("file:~/x.gguf", environ) == Path("/h/x.gguf")
    assert model_file("https://h/x.gguf", environ) is None


def test_config_check_names_a_missing_model(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    config = reading(tmp_path, POOL.replace("/models/m.gguf", str(model)))
    with pytest.raises(ConfigError, match=r"pools\[0\]\.model\.ref: no such file: .*m\.gguf"):
        check_files(config, {})
    model.mkdir()
    with pytest.raises(ConfigError, match="not a file"):
        check_files(config, {})
    model.rmdir()
    model.touch()
    check_files(config, {})
