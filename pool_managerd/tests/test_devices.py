"""What a device mask means."""

import pytest

from contracts.pools import DeviceView
from pool_managerd.domain.devices import DevicesRefused, resolve

KEY = "pools[0].replicas[1].devices"
CARDS = tuple(
    DeviceView(index=index, uuid=f"GPU-{index}", name="Card", total_bytes=1, used_bytes=0)
    for index in range(2)
)


def test_indices_and_uuids_become_uuids_in_the_order_asked() -> None:
    assert resolve([1, "GPU-0"], CARDS, KEY) == ("GPU-1", "GPU-0")


def test_no_devices_are_the_cpu_whatever_is_seen() -> None:
    assert resolve([], CARDS, KEY) == resolve([], (), KEY) == ()


def test_an_omitted_mask_is_the_cpu_only_where_no_card_is_seen() -> None:
    assert resolve(None, (), KEY) == ()
    with pytest.raises(DevicesRefused, match=r"pools\[0\].replicas\[1\].devices: .*`\[0\]`"):
        resolve(None, CARDS, KEY)


@pytest.mark.parametrize("wanted", [[2], ["GPU-9"], [0, "GPU-0"]])
def test_an_unknown_or_repeated_card_is_refused_by_the_name_of_the_key(
    wanted: list[int | str],
) -> None:
    with pytest.raises(DevicesRefused, match=r"pools\[0\].replicas\[1\].devices"):
        resolve(wanted, CARDS, KEY)
