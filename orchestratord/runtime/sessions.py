"""Sessions as a client asks for them: one, all, new terms, the end."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

from contracts.sessions import SessionSettings, SessionView
from orchestratord.clock import Clock
from orchestratord.domain.budgets import BILLION, Limits
from orchestratord.domain.sessions import Session, SessionTable, SessionTerms
from orchestratord.errors import SessionUnknown
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.ending import Canceled
from orchestratord.runtime.settling import budgets_view
from orchestratord.stores.sessions import SessionStore

ENDED = Canceled("its session was deleted", by="session")


@dataclass(frozen=True, slots=True)
class SessionList:
    """One page; `next_before` is the cursor under which the next page begins."""

    items: list[SessionView]
    next_before: str | None


class Sessions:
    """The sessions of this daemon."""

    def __init__(
        self,
        table: SessionTable,
        store: SessionStore,
        dispatcher: Dispatcher,
        clock: Clock,
    ) -> None:
        self._table = table
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock

    def get(self, session_id: str) -> SessionView:
        """One session as of now; raises `SessionUnknown`."""
        session = self._table.find(session_id, self._clock.now())
        if session is None:
            raise SessionUnknown(session_id)
        return self._view(session)

    def page(self, before: str | None, limit: int) -> SessionList:
        """At most `limit` sessions, the newest first, after the one `before` names."""
        newest_first = sorted(self._table.live(self._clock.now()), key=cursor_of, reverse=True)
        if before is not None:
            newest_first = [s for s in newest_first if cursor_of(s) < before]
        shown, more = newest_first[:limit], len(newest_first) > limit
        return SessionList([self._view(s) for s in shown], cursor_of(shown[-1]) if more else None)

    async def put(self, session_id: str, settings: SessionSettings) -> SessionView:
        """Say what a session is allowed, and begin it if there is none; on disk on return.

        Raises:
            SessionsFull, StorageBusy, StorageFull.
        """
        now, unix_ms = self._clock.now(), self._clock.unix_ms()
        terms, known = self._terms(settings), self._table.known(session_id, now)
        before = copy(known)
        session = self._table.open(session_id, terms, now, unix_ms)
        try:
            await self._store.put(session, unix_ms + terms.ttl_ms)
        except BaseException:
            self._table.revoke(session, terms, before)
            raise
        session.stored = True
        return self._view(session)

    async def delete(self, session_id: str) -> None:
        """End a session and cancel what of it still waits; what runs runs on.

        Deleting it again changes nothing while its spend is remembered.

        Raises:
            SessionUnknown: there is none.
            StorageBusy, StorageFull: it is out of use, and on disk it is not yet.
        """
        session = self._table.known(session_id, self._clock.now())
        if session is None:
            raise SessionUnknown(session_id)
        self._table.delete(session)
        await self._store.delete(session_id)
        await self._dispatcher.cancel_waiting(tuple(session.tasks), ENDED)

    def _terms(self, settings: SessionSettings) -> SessionTerms:
        """What was sent, over the defaults; a budget sent as null has no bound."""
        defaults, sent = self._table.defaults, settings.model_fields_set
        cost = settings.budget_cost
        return SessionTerms(
            ttl_ms=settings.ttl_ms or defaults.ttl_ms,
            max_turns=settings.max_turns or defaults.max_turns,
            limits=Limits(
                tokens=settings.budget_tokens
                if "budget_tokens" in sent
                else defaults.limits.tokens,
                time_ms=settings.budget_time_ms
                if "budget_time_ms" in sent
                else defaults.limits.time_ms,
                cost=(None if cost is None else round(cost * BILLION))
                if "budget_cost" in sent
                else defaults.limits.cost,
            ),
        )

    def _view(self, session: Session) -> SessionView:
        return SessionView(
            session_id=session.session_id,
            created_ms=session.created_ms,
            ttl_ms=session.terms.ttl_ms,
            ttl_ms_remaining=session.expires_in_ms(self._clock.now()),
            turns=session.turns,
            max_turns=session.terms.max_turns,
            active=len(session.tasks),
            kv_warmth=session.kv_warmth,
            replica_id=None if session.place is None else session.place.replica_id,
            budgets=budgets_view(session.ledger),
        )


def cursor_of(session: Session) -> str:
    """Its place among all, as text that sorts by age."""
    return f"{session.created_ms:015d}-{session.session_id}"
