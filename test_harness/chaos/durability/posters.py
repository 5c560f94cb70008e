"""Clients that bring their own task ids, and may ask again where they get no answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID

from test_harness.chaos.durability.history import History, Operation, Told
from test_harness.stack import Stack

ANSWER_S = 30.0
AGAIN_S = 0.02
TOKENS_MOST = 8


class Poster:
    """One client; its ids and lengths follow from its seed.

    Args:
        insists: whether it asks again with the same id until it is answered.
        over: ends it once set.
        pace: whether it shall go on for now.
    """

    def __init__(
        self,
        stack: Stack,
        seed: str,
        history: History,
        over: threading.Event,
        *,
        insists: bool,
        pace: Callable[[History], bool],
    ) -> None:
        self._port = int(stack.config["orchestratord"]["port"])
        self._headers = {**stack.headers, "Content-Type": "application/json"}
        self._chance = random.Random(seed)
        self._history = history
        self._over = over
        self._insists = insists
        self._pace = pace
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        """Post tasks, one after the other."""
        while not self._over.is_set():
            if self._pace(self._history) and self._connect():
                self._history.add(self._post())
            else:
                self._over.wait(AGAIN_S)
        self._hang_up()

    def _post(self) -> Operation:
        task_id = str(UUID(int=self._chance.getrandbits(128), version=4))
        tokens = self._chance.randint(1, TOKENS_MOST)
        body = json.dumps(task_body(task_id, tokens)).encode()
        began, tries, status = time.monotonic(), 1, self._try(body)
        while status is None and self._insists and not self._over.is_set():
            self._over.wait(AGAIN_S)
            if self._connect():
                tries, status = tries + 1, self._try(body)
        told = {None: Told.UNKNOWN, 202: Told.OK}.get(status, Told.FAILED)
        return Operation(task_id, tokens, told, status, tries, time.monotonic() - began)

    def _try(self, body: bytes) -> int | None:
        """The status of an answer that came whole."""
        assert self._connection is not None
        try:
            self._connection.request("POST", "/v1/tasks", body, self._headers)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._hang_up()
            return None
        return answer.status

    def _connect(self) -> bool:
        """Whether there is a connection; the one before, or a new one."""
        if self._connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
            try:
                connection.connect()
            except OSError:
                connection.close()
                return False
            self._connection = connection
        return True

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def task_body(task_id: str, tokens: int) -> dict[str, object]:
    """A task that gets so many tokens of the stand-in engine."""
    return {
        "task_id": task_id,
        "model": "tiny",
        "prompt": f"The river len={tokens}",
        "max_tokens": TOKENS_MOST + 1,
        "seed": 1,
    }


@contextlib.contextmanager
def posting(
    stack: Stack,
    seed: str,
    posters: int,
    *,
    insists: bool,
    pace: Callable[[History], bool] = lambda _: True,
) -> Iterator[History]:
    """So many posters around the block; each rests while `pace` says no.

    The port of the stack must stay over restarts, and its token be there.  The history is
    whole once the block is left.
    """
    history, over = History(), threading.Event()
    clients = [
        Poster(stack, f"{seed}/{number}", history, over, insists=insists, pace=pace)
        for number in range(posters)
    ]
    threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield history
    finally:
        over.set()
        for thread in threads:
            thread.join()
