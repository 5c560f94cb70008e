"""`/v1/sessions` on a port, and what POST and the stream say of budgets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from contracts.ids import new_uuid
from contracts.sessions import SessionPage, SessionView
from contracts.tests.conftest import Answer
from orchestratord.tests.http.conftest import Opening, Site
from orchestratord.tests.http.reading import unchunked
from orchestratord.tests.runtime.frames import parse
from orchestratord.tests.stores.rows import id_of
from worker_adapters.base import Finished, Token

pytestmark = pytest.mark.anyio

SESSION = new_uuid()
PATH = f"/v1/sessions/{SESSION}"


async def put(it: Site, path: str = PATH, **settings: Any) -> Answer:
    return await it.ask("PUT", path, json.dumps(settings).encode())


async def test_one_agent_is_given_its_own_budgets(site: Opening) -> None:
    """LO-ORC-145."""
    async with site() as it:
        answer = await put(it, budget_tokens=100, budget_cost=0.5, max_turns=2, ttl_ms=5_000)
        assert answer.status == 200
        view = SessionView.model_validate_json(answer.body)
        assert (view.session_id, view.turns, view.max_turns, view.ttl_ms) == (SESSION, 0, 2, 5_000)
        assert (view.budgets.tokens.limit, view.budgets.cost.limit) == (100, 0.5)
        assert view.budgets.time_ms.limit is None
        assert (await it.ask("GET", PATH)).json == json.loads(answer.body)
        again = await put(it, PATH.upper().replace("V1/SESSIONS", "v1/sessions"))
        assert again.json["budgets"]["tokens"]["limit"] is None


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"budget_tokens": 0}, "budget_tokens"),
        ({"budget_cost": -1.0}, "budget_cost"),
        ({"max_turns": None}, "max_turns"),
        ({"ttl_ms": "5"}, "ttl_ms"),
        ({"budget_token": 5}, "budget_token"),
    ],
)
async def test_settings_that_make_no_sense_are_refused_by_name(
    site: Opening, settings: dict[str, Any], field: str
) -> None:
    async with site() as it:
        answer = await put(it, **settings)
        assert (answer.status, answer.json["code"]) == (400, "INVALID_PARAMS")
        assert answer.json["details"]["field"] == field
        assert (await it.ask("GET", PATH)).status == 404


async def test_what_is_no_session_is_not_found(site: Opening) -> None:
    async with site() as it:
        for method in ("GET", "DELETE"):
            for path in (PATH, "/v1/sessions/none"):
                answer = await it.ask(method, path)
                assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND")
        assert (await put(it, "/v1/sessions/none")).status == 400


async def test_every_answer_to_a_post_says_what_is_left(site: Opening) -> None:
    """LO-ORC-149."""
    async with site() as it:
        await put(it, budget_tokens=1_000, budget_time_ms=60_000, budget_cost=2.0)
        answer = await it.post(session_id=SESSION, max_tokens=8)
        assert answer.status == 202
        left = int(answer.headers["x-budget-tokens-remaining"])
        assert 1_000 - 100 < left < 1_000
        assert answer.headers["x-budget-time-remaining-ms"] == "59000"
        assert answer.headers["x-budget-cost-remaining"] == "2"
        unlimited = await it.post(session_id=new_uuid())
        assert not [name for name in unlimited.headers if name.startswith("x-budget")]


async def test_a_session_that_may_not_is_told_why(site: Opening) -> None:
    """LO-ORC-123, LO-ORC-143."""
    async with site(slots=0) as it:
        await put(it, budget_tokens=20, max_turns=2)
        refused = await it.post(session_id=SESSION, max_tokens=50)
        assert (refused.status, refused.json["code"]) == (403, "BUDGET_EXHAUSTED")
        assert refused.json["details"]["budget"] == "tokens"
        assert f"PUT {PATH}" in refused.json["message"]
        await put(it, max_turns=1)
        assert (await it.post(session_id=SESSION)).status == 202
        refused = await it.post(session_id=SESSION)
        assert (refused.status, refused.json["code"]) == (409, "SESSION_TURNS_EXHAUSTED")


async def test_deleting_a_session_cancels_what_waits(site: Opening) -> None:
    """LO-ORC-126."""
    async with site(slots=0) as it:
        await it.post(session_id=SESSION, task_id=id_of(1))
        assert (await it.ask("DELETE", PATH)).status == 204
        assert (await it.ask("GET", f"/v1/tasks/{id_of(1)}")).json["state"] == "canceled"
        assert (await it.ask("GET", PATH)).status == 404
        assert (await it.ask("DELETE", PATH)).status == 204


async def test_sessions_and_their_tasks_are_listed(site: Opening) -> None:
    async with site(slots=0) as it:
        for number in range(3):
            it.behind.clock.advance(0.001)
            await it.post(session_id=id_of(number), task_id=id_of(10 + number))
        first = SessionPage.model_validate_json((await it.ask("GET", "/v1/sessions?limit=2")).body)
        assert [view.session_id for view in first.items] == [id_of(2), id_of(1)]
        rest = await it.ask("GET", f"/v1/sessions?limit=2&cursor={first.next_cursor}")
        assert [item["session_id"] for item in rest.json["items"]] == [id_of(0)]
        assert rest.json["next_cursor"] is None
        tasks = (await it.ask("GET", f"/v1/tasks?session_id={id_of(1).upper()}")).json["items"]
        assert [task["task_id"] for task in tasks] == [id_of(11)]
        for query in ("cursor=x", "limit=0", "limit=501"):
            assert (await it.ask("GET", f"/v1/sessions?{query}")).status == 400
        assert (await it.ask("GET", "/v1/tasks?session_id=x")).status == 400


async def test_the_end_of_a_stream_says_what_is_left(site: Opening) -> None:
    """LO-ORC-149."""
    async with site() as it:
        await put(it, budget_tokens=100)
        it.behind.play([Token("a"), Finished("stop", 1, 1, 0)])
        accept = {"Accept": "text/event-stream"}
        answer = await it.post(accept, session_id=SESSION, max_tokens=4)
        assert answer.status == 200
        assert int(answer.headers["x-budget-tokens-remaining"]) < 100
        end = parse(unchunked(answer.body))[-1]
        assert (end.name, end.data["budgets"]["tokens"]["remaining"]) == ("end", 98)


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(site: Opening) -> None:
    """LO-ORC-122."""
    async with site() as it:
        world, gate = it.behind, asyncio.Event()
        world.play([Token("a"), gate, Token("b"), Finished("stop", 1, 8, 0)])
        learned = await world.submit(max_tokens=8)
        await world.until(learned, "token")
        world.clock.advance(70)
        gate.set()
        await world.frames(learned)
        refused = await it.post(deadline_ms=1_000)
        assert (refused.status, refused.json["code"]) == (400, "DEADLINE_UNMET")
        assert refused.json["retriable"] is False
        assert refused.json["details"]["predicted_ms"] == pytest.approx(80_000, rel=0.2)
        assert (await it.post(deadline_ms=300_000)).status == 202
