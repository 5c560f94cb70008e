"""Drain, reload and resume on a port."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.errors import ErrorCode, Refusal
from contracts.tests.conftest import Answer
from orchestratord.clients.pools import PoolManagerAway
from orchestratord.tests.builders import pool_change
from orchestratord.tests.http.conftest import Opening, Site

pytestmark = pytest.mark.anyio


async def ask(it: Site, change: str, pool: str = "chat", **fields: Any) -> Answer:
    return await it.ask("POST", f"/v1/pools/{pool}/{change}", json.dumps(fields).encode())


async def test_a_drain_is_answered_202_and_holds_from_then_on(site: Opening) -> None:
    """LO-ORC-152."""
    async with site() as it:
        it.behind.leases.changes["drain"] = pool_change("drain", 2, cut_at_ms=5)
        answer = await ask(it, "drain", deadline_ms=0)
        assert (answer.status, answer.json["draining"], answer.json["cut_at_ms"]) == (202, True, 5)
        refused = await it.post()
        assert (refused.status, refused.json["code"]) == (503, "POOL_DRAINING")
        health = (await it.ask("GET", "/v1/pools/chat/health")).json
        assert (health["draining"], health["ready"]) == (True, False)
        it.behind.leases.changes["resume"] = pool_change("resume", 3)
        assert (await it.ask("POST", "/v1/pools/chat/resume")).status == 202
        assert (await it.post()).status == 202


async def test_a_reload_lets_tasks_in(site: Opening) -> None:
    async with site() as it:
        it.behind.leases.changes["reload"] = pool_change("reload", 2)
        assert (await ask(it, "reload", new_model_ref="file:/models/new")).status == 202
        assert (await it.post()).status == 202


@pytest.mark.parametrize("change", ["drain", "reload", "resume"])
async def test_a_manager_that_is_away_changes_nothing(site: Opening, change: str) -> None:
    """LO-ORC-161."""
    async with site() as it:
        it.behind.leases.changes[change] = PoolManagerAway("connection refused")
        fields = {"new_model_ref": "file:/models/new"} if change == "reload" else {}
        refused = await ask(it, change, **fields)
        assert (refused.status, refused.json["code"]) == (503, "POOL_UNAVAILABLE")
        assert refused.json["retriable"] is True
        assert "connection refused" in refused.json["message"]
        assert (await it.post()).status == 202


async def test_what_the_manager_refuses_is_passed_on(site: Opening) -> None:
    """LO-ORC-161."""
    async with site() as it:
        it.behind.leases.changes["reload"] = Refusal(
            ErrorCode.CONFLICT, "another reload is under way", pool_id="chat"
        )
        refused = await ask(it, "reload", new_model_ref="file:/models/new")
        assert (refused.status, refused.json["code"]) == (409, "CONFLICT")
        assert refused.json["message"] == "another reload is under way"


async def test_what_makes_no_sense_is_refused_here(site: Opening) -> None:
    async with site() as it:
        assert (await ask(it, "drain", pool="other")).status == 404
        assert (await ask(it, "drain", deadline_ms=-1)).status == 400
        assert (await ask(it, "reload")).status == 400
        assert (await ask(it, "reload", new_model_ref="gopher:x")).status == 400
