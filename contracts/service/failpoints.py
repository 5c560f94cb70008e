"""Named points at which a test makes a daemon fail, read from `LLORCH_FAILPOINTS`.

    db.commit=2*off->1*error(ENOSPC)->1*kill;db.read=1*delay(200)

`;` parts points and `->` the terms of one.  `COUNT*` says for how many hits a term
holds; without it a term holds for ever, so only the last one may lack it.  After
the last term a point is off.

    off             nothing happens
    error(ERRNO)    raises the OSError of that number
    kill            the process ends by SIGKILL
    delay(MS)       sleeps in the thread that hits the point: `db.*` are hit on the
                    database's own threads, everything else holds up the event loop
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from threading import Lock

import structlog

from contracts.service.config_source import ConfigError

log = structlog.get_logger()

POINTS: Mapping[str, Mapping[str, str]] = {
    "orchestratord": {
        "db.begin": "before the transaction of a group of writes",
        "db.write": "before each write of a group",
        "db.commit": "before COMMIT",
        "db.committed": "after COMMIT, before anybody is told",
        "db.read": "before a read",
        "task.accepted": "after the commit of a new task, before its 202",
        "task.start": "before the lease of an attempt",
        "task.started": "after the commit of a started attempt",
        "task.readable": "after the commit of the mark readable, before the token",
        "task.finish": "before an outcome is written",
        "task.finished": "after the commit of an outcome, before the terminal event",
        "lease.acquired": "after a lease was granted, before it is used",
        "lease.release": "before a lease is given back",
    },
    "pool_managerd": {
        "replica.spawn": "before the process of a replica is started",
        "lease.grant": "before a lease is granted",
    },
}
"""Where each daemon can be made to fail; there are no other points."""

EXAMPLE = "db.commit=2*off->1*error(ENOSPC)"

_TERM = re.compile(
    r"(?:([1-9][0-9]{0,8})\*)?(off|kill|error\((E[A-Z0-9]+)\)|delay\(([0-9]{1,5})\))"
)


@dataclass(frozen=True, slots=True)
class Term:
    """One action, as it was written, and for how many hits; None is for ever."""

    action: str
    count: int | None
    perform: Callable[[], None]


class Failpoints:
    """The points that a run was told of; `hit` may be called from any thread."""

    def __init__(self, plans: Mapping[str, Sequence[Term]]) -> None:
        self._plans = {name: _unrolled(terms) for name, terms in plans.items()}
        self._lock = Lock()
        self.reached: Counter[tuple[str, str]] = Counter()
        """Hits by point and action, of the points that were named."""

    @classmethod
    def none(cls) -> Failpoints:
        """No point at all: what a daemon has unless it is told otherwise."""
        return cls({})

    @classmethod
    def parsed(cls, daemon: str, text: str | None) -> Failpoints:
        """The points of `daemon` that `text` names.

        Raises:
            ConfigError: one line that names LLORCH_FAILPOINTS and the remedy.
        """
        plans: dict[str, list[Term]] = {}
        for part in text.split(";") if text else ():
            name, equals, terms = part.partition("=")
            if not equals:
                raise _refusal(f"`{part:.64}` is not NAME=TERM; write such as {EXAMPLE}")
            if name not in POINTS[daemon]:
                known = ", ".join(POINTS[daemon])
                raise _refusal(f"{daemon} has no point `{name:.64}`; it has {known}")
            if name in plans:
                raise _refusal(f"`{name}` is given twice; join its terms with `->`")
            plans[name] = _terms(terms)
        return cls(plans)

    def hit(self, name: str) -> None:
        """Do what the run was told for this hit of the point.

        Raises:
            OSError: where the term is an error.
        """
        if name in self._plans:
            self._reach(name)

    def _reach(self, name: str) -> None:
        with self._lock:
            term = next(self._plans[name])
            self.reached[name, term.action] += 1
            count = self.reached[name, term.action]
        if term.action != "off":
            log.warning("failpoint.reached", name=name, action=term.action, count=count)
        term.perform()


def _terms(text: str) -> list[Term]:
    terms = [_term(part) for part in text.split("->")]
    for term in terms[:-1]:
        if term.count is None:
            raise _refusal(f"nothing comes after `{term.action}`; give it a count: 1*{term.action}")
    return terms


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text)
    if found is None:
        raise _refusal(
            f"`{text:.64}` is no term; write off, kill, error(ERRNO) or delay(MS),"
            f" with or without a count: {EXAMPLE}"
        )
    count, action, name, delay_ms = found.groups()
    return Term(action, int(count) if count else None, _performer(action, name, delay_ms))


def _performer(action: str, error: str | None, delay_ms: str | None) -> Callable[[], None]:
    if error is not None:
        number = getattr(errno, error, None)
        if number is None:
            raise _refusal(f"no error is named `{error:.64}`; write such as error(ENOSPC)")
        return partial(_fail, number)
    if delay_ms is not None:
        return partial(time.sleep, int(delay_ms) / 1000)
    return _kill if action == "kill" else _pass


def _unrolled(terms: Sequence[Term]) -> Iterator[Term]:
    """A term for each hit, without an end."""
    counted = (repeat(t) if t.count is None else repeat(t, t.count) for t in terms)
    return chain(chain.from_iterable(counted), repeat(_OFF))


def _refusal(reason: str) -> ConfigError:
    return ConfigError(f"LLORCH_FAILPOINTS: {reason}")


def _fail(number: int) -> None:
    raise OSError(number, f"{os.strerror(number)} (failpoint)")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _pass() -> None:
    pass


_OFF = Term("off", None, _pass)
