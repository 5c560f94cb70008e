"""The file that keeps room back: when it is made, spent and made again."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestratord.stores import disk_reserve
from orchestratord.stores.database import open_database
from orchestratord.stores.disk_reserve import (
    MARGIN_BYTES,
    RESERVE_BYTES,
    DiskReserve,
    reserve_path,
)
from orchestratord.tests.stores.files import allocated
from orchestratord.tests.stores.notes import note, notes_in, with_notes


def rooms(monkeypatch: pytest.MonkeyPatch, *sizes: int) -> None:
    """What the disk says is free, look for look."""
    left = iter(sizes)
    monkeypatch.setattr(disk_reserve, "_room", lambda _: next(left))


def test_room_is_kept_back_in_real_blocks(path: Path) -> None:
    """LO-ORC-130."""
    reserve = DiskReserve(path)
    reserve.look()
    assert not reserve.shedding
    assert allocated(reserve_path(path)) >= RESERVE_BYTES
    reserve.spend()
    assert reserve.shedding
    assert allocated(reserve_path(path)) == 0
    reserve.look()
    assert not reserve.shedding
    assert allocated(reserve_path(path)) >= RESERVE_BYTES


def test_room_is_kept_back_only_where_a_margin_stays_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-ORC-132."""
    both = RESERVE_BYTES + MARGIN_BYTES
    rooms(monkeypatch, both - 1, both, MARGIN_BYTES - 1, MARGIN_BYTES)
    reserve, seen = DiskReserve(path), []
    for _ in range(4):
        reserve.look()
        seen.append((reserve.shedding, reserve_path(path).exists()))
    assert seen == [(True, False), (False, True), (True, True), (False, True)]


def test_a_reserve_that_somebody_removed_is_made_again(path: Path) -> None:
    reserve = DiskReserve(path)
    reserve.look()
    reserve_path(path).unlink()
    reserve.look()
    assert allocated(reserve_path(path)) >= RESERVE_BYTES


@pytest.mark.parametrize(
    ("number", "shedding"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EFBIG, False)]
)
def test_only_a_lack_of_room_sheds(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, shedding: bool
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    reserve = DiskReserve(path)
    reserve.look()
    assert reserve.shedding is shedding
    assert allocated(reserve_path(path)) == 0


@pytest.mark.parametrize(
    ("blocks", "user", "shedding"),
    [
        ({"f_blocks": 9, "f_bfree": 2**20, "f_bavail": 0}, 1000, True),
        ({"f_blocks": 9, "f_bfree": 2**20, "f_bavail": 0}, 0, False),
        ({"f_blocks": 9, "f_bfree": 0, "f_bavail": 0}, 0, True),
        ({"f_blocks": 0, "f_bfree": 0, "f_bavail": 0}, 1000, False),
    ],
    ids=["set aside for root", "as root", "full", "does not say"],
)
def test_room_is_what_this_user_may_still_write(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    blocks: dict[str, int],
    user: int,
    shedding: bool,
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_frsize=4096, **blocks))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    reserve = DiskReserve(path)
    reserve.look()
    assert reserve.shedding is shedding


@pytest.mark.anyio
async def test_where_no_reserve_can_be_made_the_database_works_without(path: Path) -> None:
    reserve_path(path).mkdir()
    async with open_database(path) as database:
        await with_notes(database)
        await database.write(note(1))
    assert notes_in(path) == {1}
