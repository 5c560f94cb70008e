"""Whether the model of a replica fits on its cards, by its file and their figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from contracts.config import Command, Pool
from contracts.pools import DeviceView, FailureReason
from pool_managerd.domain.devices import split_by_memory
from pool_managerd.domain.fit import Card, Estimate, estimate, refusal
from pool_managerd.domain.fit_terms import leaves_all_on_the_cards, terms_of
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.gguf_cursor import GgufError, GgufUnsupported
from pool_managerd.models.gguf_header import read_header
from pool_managerd.models.model_shape import shape_of
from pool_managerd.models.safetensors_header import SafetensorsError, model_bytes
from pool_managerd.telemetry.sampler import Sampler, TelemetrySilent

READ_DEADLINE_S = 10.0
STALE_S = 10.0
"""Figures older than this refuse nothing."""

_log = structlog.get_logger(__name__)


async def needed_memory(pool: Pool, model: Path) -> Estimate | None:
    """What a replica of the pool takes; None, with a line in the log: it is not known.

    Raises:
        LaunchRefused: MODEL_INVALID.
    """
    try:
        with anyio.fail_after(READ_DEADLINE_S):
            # A dead file server must hold up neither the daemon nor its stop.
            needed = await anyio.to_thread.run_sync(_needed, pool, model, abandon_on_cancel=True)
    except GgufUnsupported as error:
        _unknown(pool, str(error))
        return None
    except (GgufError, SafetensorsError) as error:
        raise LaunchRefused(
            FailureReason.MODEL_INVALID, f"{error}; fetch or convert the model again"
        ) from error
    except TimeoutError:
        _unknown(pool, f"{model} was not read within {READ_DEADLINE_S:g} s")
        return None
    except OSError as error:
        raise LaunchRefused(FailureReason.MODEL_INVALID, f"{model}: {error}") from error
    if needed is None:
        _unknown(pool, "its engine or its arguments are not followed")
    return needed


async def check_fit(
    pool: Pool, needed: Estimate, uuids: Sequence[str], telemetry: Sampler, reserve_bytes: int
) -> None:
    """Refuse a launch that cannot fit on the cards `uuids`.

    A refusal is told only by a sample that was begun after this call: an older one may
    show the memory of a replica that is gone by now.

    Raises:
        LaunchRefused: INSUFFICIENT_VRAM, with the numbers.
    """
    age_ms = telemetry.age_ms()
    if age_ms is None or age_ms > STALE_S * 1000:
        _unknown(pool, "the figures of the cards are too old")
        return
    if shortage(pool, needed, uuids, telemetry.devices, reserve_bytes) is None:
        return
    try:
        devices = await telemetry.next_sample(STALE_S)
    except TelemetrySilent as error:
        _unknown(pool, str(error))
        return
    sentence = shortage(pool, needed, uuids, devices, reserve_bytes)
    if sentence is not None:
        raise LaunchRefused(FailureReason.INSUFFICIENT_VRAM, sentence)


def shortage(
    pool: Pool,
    needed: Estimate,
    uuids: Sequence[str],
    devices: Sequence[DeviceView],
    reserve_bytes: int,
) -> str | None:
    """Why it does not fit on the cards as `devices` shows them; None: it does, or who knows."""
    cards = free_cards(uuids, devices)
    if cards is None:
        _unknown(pool, "a card does not tell how much memory is in use")
        return None
    split = split_by_memory(uuids, devices)
    return refusal(pool.model.id, needed, cards, reserve_bytes, split)


def free_cards(uuids: Sequence[str], devices: Sequence[DeviceView]) -> tuple[Card, ...] | None:
    """The cards `uuids` with their free bytes; None where one does not tell."""
    seen = {device.uuid: device for device in devices}
    cards = []
    for uuid in uuids:
        device = seen.get(uuid)
        if device is None or device.used_bytes is None:
            return None
        free = device.total_bytes - device.used_bytes
        cards.append(Card(uuid, device.name, device.index, free))
    return tuple(cards)


def _needed(pool: Pool, model: Path) -> Estimate | None:
    if isinstance(pool.provisioning, Command):
        # What it runs is not known, so any file is a model, of the size it has.
        arguments = (*pool.provisioning.command, *pool.engine_args)
        if model.is_dir() or not leaves_all_on_the_cards(arguments):
            return None
        return Estimate(weights=model.stat().st_size)
    if pool.engine == "triton":
        # Its directory holds compiled engines of any kind.
        return None
    if model.is_dir():
        return Estimate(weights=model_bytes(model))
    if pool.engine != "llamacpp":
        return None
    shape = shape_of(read_header(model))
    terms = terms_of(pool.ctx, pool.slots, pool.engine_args)
    return None if terms is None else estimate(shape, terms)


def _unknown(pool: Pool, why: str) -> None:
    _log.info("fit.unknown", pool_id=pool.id, message=why)
