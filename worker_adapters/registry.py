"""Which engines this version serves: an explicit table, no discovery."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from worker_adapters.base import EngineClient, EngineLauncher
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.llamacpp_launch import EmbeddedLauncher, LlamaServerLauncher
from worker_adapters.openai import OpenAiClient
from worker_adapters.openai_launch import AnyServerLauncher
from worker_adapters.tgi import TgiClient
from worker_adapters.tgi_launch import TgiLauncher
from worker_adapters.transport import EngineTransport
from worker_adapters.triton import TritonClient
from worker_adapters.triton_launch import TritonImageLauncher, TritonLauncher
from worker_adapters.vllm import VllmClient
from worker_adapters.vllm_launch import VllmImageLauncher, VllmLauncher

ClientFactory = Callable[[EngineTransport, str, str | None], EngineClient]
"""(transport, base URL, API key or None) -> a client of that engine."""


@dataclass(frozen=True)
class Engine:
    """One engine: how it is started, by provisioning mode, and how it is spoken to."""

    name: str
    launchers: Mapping[str, EngineLauncher]
    """By `provisioning.mode`; a mode that is not here starts no process of ours."""
    client: ClientFactory


ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        "llamacpp": Engine(
            name="llamacpp",
            launchers=MappingProxyType(
                {"binary": LlamaServerLauncher(), "embedded": EmbeddedLauncher()}
            ),
            client=LlamaCppClient,
        ),
        "tgi": Engine(
            name="tgi",
            launchers=MappingProxyType({"binary": TgiLauncher()}),
            client=TgiClient,
        ),
        "triton": Engine(
            name="triton",
            launchers=MappingProxyType(
                {"binary": TritonLauncher(), "container": TritonImageLauncher()}
            ),
            client=TritonClient,
        ),
        "vllm": Engine(
            name="vllm",
            launchers=MappingProxyType(
                {"binary": VllmLauncher(), "container": VllmImageLauncher()}
            ),
            client=VllmClient,
        ),
        "openai": Engine(
            name="openai",
            launchers=MappingProxyType({"binary": AnyServerLauncher()}),
            client=OpenAiClient,
        ),
    }
)


def new_client(
    engine: str, transport: EngineTransport, base_url: str, api_key: str | None
) -> EngineClient:
    """A client of the engine at `base_url`; KeyError for an engine this version has not."""
    return ENGINES[engine].client(transport, base_url, api_key)
