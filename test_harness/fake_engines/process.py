"""The process of a stand-in engine, whatever its dialect.

    python -m test_harness.fake_engines.DIALECT --port P [--slots N] [--ctx N]
        [--token-ms MS] [--tokens N] [--prefill-ms-per-token MS] [--progress-every N]
        [--attempts-log FILE] [--fault NAME]...

A token is a word, of prompts too.  It says ` w0 w1 w2 …`, one every `--token-ms`,
`--tokens` at most; a prompt that holds a word `len=37` gets 37.  Before the first
one the prompt is evaluated in batches of `--progress-every`, but for what the
slot's cache holds.  The API key comes from `--api-key` or the engine's own
variable; without one every key is taken.

The faults are listed in `faults.py`, what `--attempts-log` writes in `attempts_log.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

from aiohttp import web

from test_harness.fake_engines.dialect import Dialect
from test_harness.fake_engines.faults import LAST_WORDS, Faults
from test_harness.fake_engines.generation import EXIT_DIED
from test_harness.fake_engines.server import FakeEngine

GRANDCHILD = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


def run(dialect: Dialect) -> None:
    """Serve until SIGTERM, or as the faults have it."""
    parser = options_parser(dialect)
    options = parser.parse_args()
    try:
        faults = Faults.named(options.fault)
    except ValueError as error:
        parser.error(str(error))
    _die_at_once(faults)
    if "fork-on-start" in faults:
        _fork(options.pid_file)
    if "grandchild" in faults:
        child = subprocess.Popen([sys.executable, "-c", GRANDCHILD])
        Path(options.pid_file or os.devnull).write_text(str(child.pid))
    if "log-flood" in faults:
        threading.Thread(target=_flood, daemon=True).start()
    if "silent-start" in faults:
        threading.Event().wait()
    asyncio.run(_serve(dialect, options, faults))


async def _serve(dialect: Dialect, options: argparse.Namespace, faults: Faults) -> None:
    stopping = asyncio.Event()
    on_term = (lambda: None) if "ignore-term" in faults else stopping.set
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_term)
    if "slow-start" in faults and not dialect.answers_while_loading:
        await asyncio.sleep(faults["slow-start"] / 1000)
    fake = FakeEngine(dialect, options)
    runner = web.AppRunner(fake.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port)
    await site.start()
    deafness = asyncio.create_task(_go_deaf(fake.engine.deaf, site))
    await stopping.wait()
    deafness.cancel()
    # As llama-server does: open streams are cut, not finished.
    os._exit(0)


async def _go_deaf(deaf: asyncio.Event, site: web.TCPSite) -> None:
    await deaf.wait()
    await site.stop()


def _die_at_once(faults: Faults) -> None:
    for name, words in LAST_WORDS.items():
        if name in faults:
            _end(words, 1)
    if "die-at-start" in faults:
        _end("a fault of this test: die-at-start", EXIT_DIED)


def _end(words: str, code: int) -> NoReturn:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()
    os._exit(code)


def _fork(pid_file: str | None) -> None:
    """Go on as a child of the process that was started, which ends."""
    child = os.fork()
    if child:
        Path(pid_file or os.devnull).write_text(str(child))
        os._exit(0)


def _flood() -> None:
    line = b"x" * 1023 + b"\n"
    while True:
        os.write(1, line)
        os.write(2, line)


def options_parser(dialect: Dialect) -> argparse.ArgumentParser:
    """The command line."""
    prog = f"python -m test_harness.fake_engines.{dialect.name}"
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key")
    parser.add_argument("--alias", default="fake")
    parser.add_argument("--ctx", type=int, default=4096, help="tokens of context per slot")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--token-ms", type=float, default=1.0)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="most tokens of a stream")
    parser.add_argument("--prefill-ms-per-token", type=float, default=0.0)
    parser.add_argument("--progress-every", type=int, default=128, help="tokens of a batch")
    parser.add_argument("--attempts-log", help="a file to note each completion request in")
    parser.add_argument("--fault", action="append", default=[], help="see faults.py")
    parser.add_argument("--pid-file", help="where a child writes its pid")
    return parser
