"""What a stand-in engine can be told to do wrong: a closed list of names.

Given by `--fault NAME`, for the process.  Those of a stream may also stand in a
prompt, as a word `fault=NAME`, and hold for that stream alone, so that one
engine serves good and bad streams side by side and still becomes ready.

The process
    ignore-term       SIGTERM does nothing
    slow-start-MS     is not there for so long: answers 503, or has its port closed
    silent-start      opens no port, for ever
    die-at-start      ends with exit code 3 before it listens
    bad-model, out-of-memory, gpu-lost, bad-argument, port-taken
                      ends at once, with the words llama-server has for it
    wrong-identity    takes every key, as a stranger's server would
    fork-on-start     its first process ends with 0 and leaves a child in its group that serves
    grandchild        starts a child in its group that ignores SIGTERM and never ends
    log-flood         writes to stdout and stderr as fast as it can
    stall-health      answers nothing but streams while a prompt is evaluated
    die-after-N       ends with exit code 3 once N tokens were sent, over all streams
    crash-after-N     the same with SIGSEGV
    half-alive        answers everything, and generates nothing more once a token was sent
    deaf-after-N      closes its port once N tokens were sent, and lives on
    poison            ends with exit code 3 at a prompt that holds the word POISON

A stream, from its beginning
    silent-after-accept  takes the request and never says a word
    html              answers 200 with a page
    status-N          answers with this HTTP status and `Retry-After: 1`
    no-progress       never tells how far it is, as an engine that does not know how
    ignore-n-predict  goes on past the bound it was given
    flood-MB          sends so many megabytes, as fast as it can, in tokens of 10 kB
    split-utf8        speaks `ODD_WORDS`, every character of several bytes cut in two
    slice-N           sends the body in pieces of N bytes
    mixed-line-ends   ends lines with LF, CR LF and CR in turn
    bom               begins with a byte order mark
    foreign-events    gives its events the name `execute`, ids and retries

A stream, before its token N + 1 as `NAME-N`, before its first one as `NAME`
    hang-after-N      sends nothing more, for ever; this one always has a number
    bad-json          sends an event that is no JSON
    foreign-data      sends an event of another dialect, named `execute`
    endless-line      sends a line that never ends
    cut-chunk         breaks the connection off within a chunk of the body
    error             reports a failure of its own, and ends as the engine then does

A stream, at its end
    no-final          ends the body without the final event
    two-finals        sends the final event twice
    bad-figures       says that it evaluated -1 tokens
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

LAST_WORDS = {
    "bad-model": "llama_model_load: bad magic\nsrv: exiting due to model loading error",
    "gpu-lost": "CUDA error: GPU is lost",
    "out-of-memory": "cudaMalloc failed: out of memory\ncommon_init: failed to load model 'm'",
    "bad-argument": "error: invalid argument: --no-such-flag",
    "port-taken": "start: couldn't bind HTTP server socket, hostname: 127.0.0.1",
}
ODD_WORDS = (" né", " 日本語", "\u2028", "\x85", " 😀", " ß\u2029", "\x0b")
"""What `split-utf8` speaks, over and over: among it all that `str.splitlines` would cut at."""

AT_A_TOKEN = frozenset({"bad-json", "foreign-data", "endless-line", "cut-chunk", "error"})
NUMBERED = frozenset(
    {"die-after", "crash-after", "deaf-after", "hang-after", "flood", "slice", "status"}
)
OF_A_STREAM = frozenset(
    {
        *AT_A_TOKEN,
        *("silent-after-accept", "html", "no-progress", "ignore-n-predict", "split-utf8"),
        *("mixed-line-ends", "bom", "foreign-events", "no-final", "two-finals", "bad-figures"),
    }
)
OF_THE_PROCESS = frozenset(
    {
        *LAST_WORDS,
        *("ignore-term", "silent-start", "die-at-start", "wrong-identity", "grandchild"),
        *("log-flood", "stall-health", "poison", "half-alive", "fork-on-start"),
    }
)
NEVER = sys.maxsize

_NUMBERED = re.compile(r"(.+)-(\d+)")
_IN_PROMPT = re.compile(r"fault=(\S+)")


class Faults(dict[str, int]):
    """Name -> number of every fault that is on; 0 where none was given."""

    @classmethod
    def named(cls, names: Iterable[str]) -> Faults:
        """`["poison", "die-after-5"]` as faults; ValueError for one that is not on the list.

        A misspelt fault would make its test pass by never being reached.
        """
        return cls(_parsed(name) for name in names)

    def with_those_of(self, words: Iterable[str]) -> Faults:
        """These, and those a prompt asks for; ValueError as above."""
        asked = [found[1] for word in words if (found := _IN_PROMPT.fullmatch(word))]
        return Faults(self | Faults.named(asked)) if asked else self

    def due(self, name: str, tokens: int) -> bool:
        """Whether a fault that waits for a number of tokens is on, and has its number."""
        return tokens >= self.get(name, NEVER)


def _parsed(text: str) -> tuple[str, int]:
    if text in OF_A_STREAM or text in OF_THE_PROCESS:
        return text, 0
    numbered = _NUMBERED.fullmatch(text)
    if numbered and numbered[1] in NUMBERED | AT_A_TOKEN | {"slow-start"}:
        return numbered[1], int(numbered[2])
    raise ValueError(f"there is no fault `{text}`; they are listed in {__name__}")
