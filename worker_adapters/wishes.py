"""What a request wishes for, in the words of `Feature`; and the refusal of what is not served.

A field that an engine does not know is ignored by most of them, with a 200: what
was asked for would silently not be done.  So an adapter refuses it first.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from types import MappingProxyType

from contracts.engines import NEUTRAL, Feature
from worker_adapters.base import GenerationRequest
from worker_adapters.errors import unserved

FIELDS: Mapping[str, Feature] = MappingProxyType(
    {
        "temperature": Feature.TEMPERATURE,
        "top_p": Feature.TOP_P,
        "top_k": Feature.TOP_K,
        "min_p": Feature.MIN_P,
        "repetition_penalty": Feature.REPETITION_PENALTY,
        "presence_penalty": Feature.PRESENCE_PENALTY,
        "frequency_penalty": Feature.FREQUENCY_PENALTY,
        "json_schema": Feature.JSON_SCHEMA,
        "grammar": Feature.GRAMMAR,
    }
)
"""The feature that each optional field of a `GenerationRequest` needs, where it is set."""


def refuse_beyond(request: GenerationRequest, served: Set[Feature]) -> None:
    """Refuse a request that wishes for what an engine does not serve.

    Raises:
        EngineRefused: INVALID_PARAMS, naming the field.
    """
    for name, feature in FIELDS.items():
        value = getattr(request, name)
        if value is not None and value != NEUTRAL.get(name) and feature not in served:
            raise unserved(f"`{name}`")
    if request.stop and Feature.STOP not in served:
        raise unserved("`stop`")
