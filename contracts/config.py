"""The one configuration of both daemons.

Every field is described with its unit, unknown keys are refused, and a value
that nothing would obey yet is refused too (`NOT_SERVED`): a setting that is
silently ignored is worse than an error.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.ids import Digest, ModelId, PoolId
from contracts.model import ByteCount, Milliseconds
from contracts.pools import MODEL_REF_PATTERN, PoolWorkload
from contracts.sessions import TURNS_MAX, AmountLimit, CostLimit

Port = Annotated[int, Field(ge=0, le=65535)]
PositiveMilliseconds = Annotated[int, Field(ge=1, le=7 * 24 * 3600 * 1000)]
PathText = Annotated[str, Field(min_length=1, max_length=4096)]


class Section(BaseModel):
    """A frozen part of the configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Listen(Section):
    """Where a daemon listens."""

    host: str = Field(default="127.0.0.1", min_length=1, max_length=255, description="Address.")
    port: Port = Field(description="TCP port; 0 takes any free one, written to the run file.")


class Tls(Section):
    """A certificate for the listener; both or neither."""

    cert: PathText | None = Field(default=None, description="PEM certificate chain.")
    key: PathText | None = Field(default=None, description="PEM private key.")

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("set both `cert` and `key`, or neither")
        return self


class Auth(Section):
    """Who may call."""

    token_file: PathText | None = Field(
        default=None,
        description="File holding the API token; null: LLORCH_API_TOKEN, else state_dir/token.",
    )
    allowed_hosts: tuple[Annotated[str, Field(min_length=1, max_length=255)], ...] = Field(
        default=(), max_length=64, description="Host names accepted besides loopback ones."
    )
    tls: Tls = Field(default=Tls(), description="TLS of the listeners.")


class Queue(Section):
    """The admission queue of each pool."""

    capacity: int = Field(default=256, ge=1, le=1_000_000, description="Tasks waiting, per pool.")
    policy: Literal["reject", "drop-lru"] = Field(
        default="reject", description="What a full queue does to a new task."
    )
    batch_max_wait_ms: PositiveMilliseconds = Field(
        default=300_000, description="A batch task older than this goes before interactive ones."
    )


class Limits(Section):
    """Bounds on what one client can make a daemon hold."""

    body_bytes: int = Field(default=1_048_576, ge=1024, le=2**30, description="Request body.")
    body_timeout_ms: PositiveMilliseconds = Field(
        default=10_000, description="From the first byte of a request to the end of its body."
    )
    connections: int = Field(default=1024, ge=1, le=65536, description="Requests open at once.")
    streams: int = Field(default=1024, ge=1, le=65536, description="Event streams open at once.")
    json_depth: int = Field(default=64, ge=4, le=512, description="Nesting of a JSON body.")
    stream_buffer_bytes: int = Field(
        default=1_048_576, ge=4096, le=2**30, description="Bytes that may lie unsent per reader."
    )
    send_timeout_ms: PositiveMilliseconds = Field(
        default=10_000, description="A reader that takes nothing for so long is cut off."
    )


PRICE_MIN = 1e-6
"""Cost is counted in billionths, so that a token costs at least one."""


class Sessions(Section):
    """Defaults of a session."""

    ttl_ms: PositiveMilliseconds = Field(default=600_000, description="Idle time to its end.")
    max_turns: int = Field(default=8, ge=1, le=TURNS_MAX, description="Tasks it may run.")
    budget_tokens: AmountLimit | None = Field(default=None, description="Tokens; null: no bound.")
    budget_time_ms: AmountLimit | None = Field(default=None, description="ms; null: no bound.")
    budget_cost: CostLimit | None = Field(default=None, description="Cost; null: no bound.")
    cost_per_1k_tokens: float = Field(
        default=0.0, ge=0, le=1000, allow_inf_nan=False, description="Cost of 1,000 tokens."
    )

    @model_validator(mode="after")
    def _no_price_rounds_to_nothing(self) -> Self:
        if 0 < self.cost_per_1k_tokens < PRICE_MIN:
            raise ValueError(f"`cost_per_1k_tokens` must be 0, or at least {PRICE_MIN}")
        return self


class Streams(Section):
    """Event logs."""

    retention_ms: PositiveMilliseconds = Field(
        default=300_000, description="How long a finished task and its log can be read, ms."
    )
    log_bytes: int = Field(default=16_777_216, ge=65536, le=2**32, description="One log.")
    log_total_bytes: int = Field(
        default=268_435_456, ge=65536, le=2**36, description="All logs; oldest finished go first."
    )
    keepalive_ms: PositiveMilliseconds = Field(
        default=10_000, description="A comment line after so much silence."
    )
    metrics_interval_ms: PositiveMilliseconds = Field(
        default=1_000, description="Between two `metrics` events."
    )


class Timeouts(Section):
    """Deadlines of an attempt and of a stop."""

    first_token_ms: PositiveMilliseconds = Field(
        default=120_000, description="Start to first token."
    )
    idle_token_ms: PositiveMilliseconds = Field(default=30_000, description="Between two tokens.")
    drain_ms: Milliseconds = Field(
        default=30_000, description="What running tasks get at SIGTERM before they are cut."
    )
    stop_grace_ms: Milliseconds = Field(
        default=5_000, description="Between TERM and KILL of a replica."
    )


class Supervision(Section):
    """How closely an engine is watched."""

    start_ms: PositiveMilliseconds = Field(
        default=600_000, description="From a launch to its first token."
    )
    canary_ms: PositiveMilliseconds = Field(
        default=60_000, description="An idle engine generates one token this often, as a proof."
    )
    stall_ms: PositiveMilliseconds | None = Field(
        default=None,
        description="Work in flight that moves for so long no more is a hang;"
        " null: timeouts.idle_token_ms.",
    )
    probation_ms: Milliseconds = Field(
        default=3_000, description="A reloaded model must live so long before the old one goes."
    )


class Gpus(Section):
    """Where device figures come from."""

    source: Literal["nvml", "file", "none"] = Field(
        default="nvml", description="nvml without a driver reads as no card."
    )
    file: PathText | None = Field(default=None, description="The JSON read when source is file.")
    sample_ms: int = Field(default=1_000, ge=50, le=600_000, description="Between two samples.")
    reserve_bytes: ByteCount = Field(
        default=536_870_912, description="Bytes of each card left alone."
    )

    @model_validator(mode="after")
    def _file_source_has_a_file(self) -> Self:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("`file` goes with `source: file`, and only with it")
        return self


class ModelConfig(Section):
    """The model a pool serves."""

    id: ModelId = Field(description="The name tasks ask for.")
    ref: str = Field(pattern=MODEL_REF_PATTERN, max_length=4096, description="Where it comes from.")
    digest: Digest | None = Field(default=None, description="sha256 it must have; null: any.")


class ReplicaConfig(Section):
    """One engine process."""

    devices: (
        tuple[
            Annotated[int, Field(ge=0, le=1023)]
            | Annotated[str, Field(min_length=1, max_length=128)],
            ...,
        ]
        | None
    ) = Field(
        default=None,
        max_length=64,
        description="Cards by index or UUID; [] = CPU; null: CPU where no GPU is seen.",
    )


class Embedded(Section):
    """llama.cpp from the wheel, on the CPU, in a child process."""

    mode: Literal["embedded"] = Field(description="embedded")


class Binary(Section):
    """An engine's own server program: on this machine, or downloaded and verified."""

    mode: Literal["binary"] = Field(description="binary")
    path: PathText | None = Field(default=None, description="A name on PATH, or a path.")
    url: str | None = Field(
        default=None, pattern=r"^https?://\S+$", max_length=2048, description="Where to fetch it."
    )
    digest: Digest | None = Field(default=None, description="sha256 of what is fetched.")

    @model_validator(mode="after")
    def _from_one_place(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("set either `path`, or `url` with `digest`")
        if (self.url is None) != (self.digest is None):
            raise ValueError("`url` and `digest` go together: what is run must be known")
        return self


COMMAND_PLACEHOLDERS = frozenset(
    {"host", "port", "model", "ctx", "ctx_total", "slots", "api_key", "devices"}
)
COMMAND_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Command(Section):
    """Any argv that serves the engine's dialect."""

    mode: Literal["command"] = Field(description="command")
    command: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(
        min_length=1,
        max_length=256,
        description="argv; {host} {port} {model} {ctx} {ctx_total} {slots} {api_key} {devices}.",
    )

    @model_validator(mode="after")
    def _placeholders_are_known(self) -> Self:
        used = [name for part in self.command for name in COMMAND_PLACEHOLDER.findall(part)]
        for name in used:
            if name not in COMMAND_PLACEHOLDERS:
                known = " ".join(f"{{{known}}}" for known in sorted(COMMAND_PLACEHOLDERS))
                raise ValueError(f"unknown placeholder {{{name}}}; known: {known}")
        return self


class External(Section):
    """A server somebody else runs."""

    mode: Literal["external"] = Field(description="external")
    url: str = Field(pattern=r"^https?://[^\s/?#@]+/?$", max_length=512, description="Base URL.")
    api_key_file: PathText | None = Field(default=None, description="File with its API key.")


Arguments = Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=256)]


class Container(Section):
    """The engine's server in a container."""

    mode: Literal["container"] = Field(description="container")
    image: str = Field(
        pattern=r"^[a-z0-9][A-Za-z0-9._/:@-]*$", max_length=512, description="Image and tag."
    )
    runtime: Literal["docker", "podman"] | None = Field(
        default=None, description="null: the first of both on PATH."
    )
    args: Arguments = Field(default=(), description="More arguments of `run`.")


class Source(Section):
    """llama-server, built on this machine from the sdist that vendors it."""

    mode: Literal["source"] = Field(description="source")
    sdist: PathText | None = Field(
        default=None, description="The sdist on this machine; null: fetched from the registry."
    )
    jobs: int | None = Field(default=None, ge=1, le=256, description="null: one per core.")
    cmake_args: Arguments = Field(default=(), description="Appended to cmake's own.")


class Package(Section):
    """An engine from Python packages, in a virtual environment of its own."""

    mode: Literal["package"] = Field(description="package")
    requirements: Arguments = Field(
        min_length=1, description="As pip takes them; pin versions, so that nothing moves."
    )
    command: Arguments = Field(
        default=(),
        description="argv from the environment, with {python} and the placeholders of `command`;"
        " empty: xllamacpp under the embedded server, or `vllm`.",
    )


Provisioning = Annotated[
    Embedded | Binary | Command | External | Container | Source | Package,
    Field(discriminator="mode"),
]


class Restart(Section):
    """How a replica that dies is started again."""

    base_ms: PositiveMilliseconds = Field(default=500, description="First delay.")
    cap_ms: PositiveMilliseconds = Field(default=30_000, description="Longest delay.")
    intensity: int = Field(
        default=5, ge=1, le=1000, description="Deaths in a window that open the breaker."
    )
    window_ms: PositiveMilliseconds = Field(default=60_000, description="That window.")
    stable_ms: PositiveMilliseconds = Field(
        default=60_000, description="Serving so long forgets earlier deaths."
    )


ModelKind = Literal["file", "directory", "any"]
DIRECTORY_ENGINES = frozenset({"vllm", "tgi", "triton"})
"""Engines whose model is a directory of files."""


class Pool(Section):
    """One engine, one model, and its replicas."""

    id: PoolId = Field(description="Its name.")
    engine: Literal["llamacpp", "vllm", "tgi", "triton", "openai"] = Field(
        description="The engine's dialect."
    )
    model: ModelConfig = Field(description="What it serves.")
    ctx: int = Field(
        default=4096, ge=16, le=16_777_216, description="Prompt + output of a task, tokens."
    )
    slots: int = Field(default=1, ge=1, le=1024, description="Tasks a replica serves at once.")
    workload: PoolWorkload = Field(
        default="generation",
        description="What its engines are started for: generation is completion and chat.",
    )
    replicas: tuple[ReplicaConfig, ...] = Field(
        default=(ReplicaConfig(),), min_length=1, max_length=1000, description="Its processes."
    )
    engine_args: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(
        default=(), max_length=256, description="Appended to the engine's argv."
    )
    provisioning: Provisioning = Field(description="How the engine comes to run.")
    restart: Restart = Field(default=Restart(), description="When it dies.")

    @model_validator(mode="after")
    def _package_without_a_command_is_cpu_only(self) -> Self:
        plain = isinstance(self.provisioning, Package) and not self.provisioning.command
        plain = plain and self.engine == "llamacpp"
        if plain and (any(replica.devices for replica in self.replicas) or self.engine_args):
            raise ValueError(
                "provisioning `package` without a `command` runs on the CPU, without"
                " `engine_args`: set `devices: []`, or a `command` that uses the cards"
            )
        return self

    @model_validator(mode="after")
    def _embedded_is_cpu_only(self) -> Self:
        if isinstance(self.provisioning, Embedded):
            if self.engine != "llamacpp":
                raise ValueError("provisioning `embedded` serves engine `llamacpp` only")
            if any(replica.devices for replica in self.replicas):
                raise ValueError(
                    "provisioning `embedded` runs on the CPU only: set `devices: []`, or use"
                    " `mode: binary` with a llama-server built for your GPU"
                )
            if self.engine_args:
                raise ValueError("provisioning `embedded` takes no `engine_args`")
        return self

    @model_validator(mode="after")
    def _engine_comes_so(self) -> Self:
        mode = self.provisioning.mode
        if self.engine == "openai" and mode not in ("external", "command"):
            raise ValueError(
                "engine `openai` is any server of that API, with no program of its own: use"
                " provisioning `external` or `command`"
            )
        if mode == "source" and self.engine != "llamacpp":
            raise ValueError("provisioning `source` builds llama.cpp: it serves `llamacpp` only")
        if mode == "container" and self.engine == "triton":
            raise ValueError(
                "provisioning `container` cannot serve engine `triton`: it takes no key, so that"
                " nobody can prove who listens on the port of a container; use `binary`,"
                " `command` or `external`"
            )
        plain = isinstance(self.provisioning, Package) and not self.provisioning.command
        if plain and self.engine not in ("llamacpp", "vllm"):
            raise ValueError(
                f"provisioning `package` needs a `command` that starts engine `{self.engine}`"
            )
        return self

    @property
    def model_kind(self) -> ModelKind:
        """What its model is on disk; of a command nobody knows what it takes."""
        if self.provisioning.mode in ("command", "external"):
            return "any"
        return "directory" if self.engine in DIRECTORY_ENGINES else "file"


class Retention(Section):
    """When artifacts are removed."""

    max_age_s: int | None = Field(default=None, ge=1, description="Seconds; null: never.")
    max_total_bytes: ByteCount | None = Field(default=None, description="Bytes; null: no bound.")


class Artifacts(Section):
    """The artifact store."""

    dir: PathText | None = Field(default=None, description="null: state_dir/artifacts.")
    max_bytes: int = Field(default=67_108_864, ge=1, description="Largest artifact.")
    retention: Retention = Field(default=Retention(), description="When they are removed.")


class HttpPolicy(Section):
    """What the outbound HTTP tool may reach."""

    allow: tuple[str, ...] = Field(default=(), max_length=1024, description="Hosts allowed.")
    deny: tuple[str, ...] = Field(default=(), max_length=1024, description="Hosts denied.")
    max_bytes: int = Field(default=1_048_576, ge=1, description="Largest answer.")
    timeout_ms: PositiveMilliseconds = Field(default=10_000, description="Deadline.")
    redact: tuple[str, ...] = Field(default=(), max_length=256, description="Fields to redact.")


HOST_RULE_PATTERN = (
    r"^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$|^[0-9a-fA-F:.]{2,45}$"
)
BASE_URL_PATTERN = r"^https?://[^\s/?#@]+/?$"
HostRule = Annotated[str, Field(pattern=HOST_RULE_PATTERN, max_length=255)]


class S3(Section):
    """Where `s3:` models come from."""

    endpoint: str | None = Field(
        default=None,
        pattern=BASE_URL_PATTERN,
        max_length=512,
        description="Base URL of another store than Amazon's; null: Amazon's in `region`.",
    )
    region: str = Field(
        default="us-east-1", pattern=r"^[a-z0-9-]{1,64}$", description="The bucket's region."
    )
    access_key_file: PathText | None = Field(
        default=None, description="File with ACCESS_KEY_ID:SECRET_KEY; null: asked without a name."
    )


class Oci(Section):
    """The login of `oci:` models."""

    registry: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9.:_-]{1,255}$",
        description="The registry, as in the ref, that the login is for.",
    )
    login_file: PathText | None = Field(
        default=None, description="File with USER:PASSWORD; null: asked without a name."
    )

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.registry is None) != (self.login_file is None):
            raise ValueError("set both `registry` and `login_file`, or neither")
        return self


class Downloads(Section):
    """Whether models may be fetched, from where, and how much room they get."""

    allow: bool = Field(default=False, description="Off by default.")
    hosts: tuple[HostRule, ...] = Field(
        default=(),
        max_length=256,
        description="Hosts allowed, redirects included: a name, *.suffix, or an address. One inside"
        " this machine or its network must be listed by its address.",
    )
    cache_dir: PathText | None = Field(default=None, description="null: state_dir/models.")
    max_bytes: int = Field(
        default=549_755_813_888, ge=1, le=2**53, description="Largest file fetched, bytes."
    )
    max_cache_bytes: int | None = Field(
        default=None,
        ge=1,
        le=2**53,
        description="All models kept, bytes; those not in use go, longest unused first."
        " null: no bound.",
    )
    disk_floor_bytes: ByteCount = Field(
        default=2_147_483_648, description="Bytes of the disk that a download leaves free."
    )
    stall_timeout_ms: PositiveMilliseconds = Field(
        default=60_000, description="A server must answer, and bring 64 KiB, in this time."
    )
    hf_endpoint: str = Field(
        default="https://huggingface.co",
        pattern=BASE_URL_PATTERN,
        max_length=512,
        description="Base URL that `hf:` refs are asked from.",
    )
    hf_token_file: PathText | None = Field(
        default=None, description="File with the token for hf_endpoint; null: asked without one."
    )
    s3: S3 = Field(default=S3(), description="`s3:` refs.")
    oci: Oci = Field(default=Oci(), description="`oci:` refs.")


class Policy(Section):
    """What may leave this machine."""

    http: HttpPolicy = Field(default=HttpPolicy(), description="The HTTP tool.")
    downloads: Downloads = Field(default=Downloads(), description="Model downloads.")


class Observability(Section):
    """Logs, traces, metrics."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe line written."
    )
    otlp_endpoint: str | None = Field(default=None, max_length=512, description="OTLP/HTTP URL.")
    metrics_public: bool = Field(default=False, description="/metrics without a token.")


class Config(Section):
    """Everything both daemons are told."""

    state_dir: PathText = Field(
        default="~/.local/state/llama-orch", description="0700; database, logs, run files."
    )
    orchestratord: Listen = Field(default=Listen(port=8700), description="The task API.")
    pool_managerd: Listen = Field(default=Listen(port=8701), description="The supervisor's API.")
    auth: Auth = Field(default=Auth(), description="Tokens, host names, TLS.")
    queue: Queue = Field(default=Queue(), description="Admission.")
    limits: Limits = Field(default=Limits(), description="Bounds.")
    sessions: Sessions = Field(default=Sessions(), description="Session defaults.")
    streams: Streams = Field(default=Streams(), description="Event streams.")
    timeouts: Timeouts = Field(default=Timeouts(), description="Deadlines.")
    supervision: Supervision = Field(default=Supervision(), description="Watching engines.")
    gpus: Gpus = Field(default=Gpus(), description="Device figures.")
    pools: tuple[Pool, ...] = Field(default=(), max_length=1000, description="What to serve.")
    artifacts: Artifacts = Field(default=Artifacts(), description="Artifacts.")
    policy: Policy = Field(default=Policy(), description="What may leave.")
    observability: Observability = Field(default=Observability(), description="Logs, metrics.")

    @model_validator(mode="after")
    def _pool_ids_differ(self) -> Self:
        seen: set[str] = set()
        for pool in self.pools:
            if pool.id in seen:
                raise ValueError(f"two pools are named `{pool.id}`")
            seen.add(pool.id)
        return self


# Dotted keys that validate but that nothing obeys in this version.
NOT_SERVED = (
    "artifacts",
    "policy.http",
    "observability.otlp_endpoint",
)


def unserved(config: Config) -> str | None:
    """The first setting this version would ignore, as one sentence, or None."""
    defaults = Config()
    for key in NOT_SERVED:
        if _at(config, key) != _at(defaults, key):
            default = _shown(_at(defaults, key))
            return f"{key}: not served by this version; remove it (default: {default})"
    return None


def _at(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _shown(value: Any) -> str:
    return value.model_dump_json() if isinstance(value, BaseModel) else repr(value)
