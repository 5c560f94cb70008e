"""Which cards a replica's entry means."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.pools import DeviceView

LOST = "lost"
"""The health of a card that the driver cannot reach any more, or does not count."""


class DevicesRefused(Exception):
    """The entry names no card that is there, or does not say whether to use one."""


def resolve(
    wanted: Sequence[int | str] | None, seen: Sequence[DeviceView], key: str
) -> tuple[str, ...]:
    """UUIDs of the wanted cards, in the order of the entry; () is the CPU.

    `key` names the entry in the configuration, for the message.

    Raises:
        DevicesRefused: a card is not there or named twice, or `wanted` is None
            while cards are seen: a GPU machine never falls back to its CPU
            unasked.
    """
    if wanted is None:
        if seen:
            raise DevicesRefused(
                f"{key}: {_listed(seen)} seen; say which one to use, like `[{seen[0].index}]`,"
                " or `[]` for the CPU"
            )
        return ()
    uuids = tuple(_uuid(device, seen, key) for device in wanted)
    if len(set(uuids)) < len(uuids):
        raise DevicesRefused(f"{key}: names one card twice")
    return uuids


def is_lost(device: DeviceView) -> bool:
    """Whether nothing runs on the card until it is reset."""
    return device.health == LOST


def without_figures(device: DeviceView) -> DeviceView:
    """The card as it is shown once it is lost: who it was, and nothing that it does."""
    unknown = dict.fromkeys(("used_bytes", "utilization", "temperature_c", "power_w"))
    return device.model_copy(update={**unknown, "health": LOST, "processes": ()})


def split_by_memory(uuids: Sequence[str], seen: Sequence[DeviceView]) -> tuple[float, ...]:
    """How a model is shared among cards: by total memory, the smallest taking 1.

    () for one card or none, where nothing is shared.
    """
    totals = {card.uuid: card.total_bytes for card in seen}
    shares = [totals[uuid] for uuid in uuids]
    if len(shares) < 2 or min(shares) <= 0:
        return ()
    return tuple(round(share / min(shares), 3) for share in shares)


def _uuid(device: int | str, seen: Sequence[DeviceView], key: str) -> str:
    for card in seen:
        if device in (card.index, card.uuid):
            return card.uuid
    raise DevicesRefused(f"{key}: there is no card {device!r}; {_listed(seen)} seen")


def _listed(seen: Sequence[DeviceView]) -> str:
    if not seen:
        return "none is"
    cards = ", ".join(f"{card.index} ({card.name}, {card.uuid})" for card in seen)
    return f"{cards} {'is' if len(seen) == 1 else 'are'}"
