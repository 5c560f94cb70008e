"""llama.cpp in a process of its own, from the xllamacpp wheel, on the CPU.

    python -m worker_adapters.embedded --model F --host H --port P --ctx N --slots N --alias A
        [--workload generation|embedding|rerank]

The API key comes from the environment (`LLAMA_API_KEY`), where other users of
the machine cannot read it.  The process never dies with its parent, so that a
replica outlives the daemon that started it; SIGTERM and SIGINT end it at once,
streams and all.  When it cannot serve, its last line on stderr says why and its
exit code is one of `EmbeddedExit`.
"""

from __future__ import annotations

import argparse
import mmap
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import NoReturn, get_args

from contracts.pools import PoolWorkload
from contracts.service.settings import engine_api_key

SIGNALS = (signal.SIGTERM, signal.SIGINT)
THREADS_MAX = 8
BATCH_TOKENS = 128
"""Of a prompt at a time.  Between two batches the engine tells its progress, looks for a client
that left, and serves its other slots; a batch is a second at the speed of a CPU, and smaller
ones begin to cost."""
LOG_WARNINGS = 2
"""llama.cpp's level; the next one writes six lines for every request."""
GGUF_MAGIC = b"GGUF"
HEADER_BYTES = 64 * 1024 * 1024
"""The names of a model's tensors lie within; vocabularies of 250,000 words take 20 MB."""
RANKING_TENSORS = (b"cls.weight", b"cls.output.weight")
SPLIT_KEY = b"split.count"
"""Of a model in several files, whose other files may hold the tensor."""


class EmbeddedExit(IntEnum):
    """How the process ends; the numbers are those of sysexits.h."""

    STOPPED = 0
    BAD_ARGUMENT = 2
    """argparse's own: no meaning in sysexits.h."""
    BAD_MODEL = os.EX_NOINPUT
    WHEEL_MISSING = os.EX_UNAVAILABLE
    PORT_TAKEN = os.EX_TEMPFAIL
    UNFIT_MODEL = os.EX_CONFIG
    """It is sound, and cannot do what it shall be served for."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Serve until a signal comes."""
    arguments = _parser().parse_args(argv)
    _check_model(arguments.model)
    if arguments.workload == "rerank":
        _check_ranks(arguments.model)
    # While the model loads, for seconds or minutes, llama.cpp holds the interpreter's lock and
    # no Python handler could run: until then the kernel's own answer ends the process at once.
    _end_at_signals(signal.SIG_DFL)
    _running = _serve(arguments)
    _end_at_signals(_stop)
    while True:
        signal.pause()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker_adapters.embedded", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ctx", type=int, required=True, help="tokens of context per slot")
    parser.add_argument("--slots", type=int, required=True, help="requests decoded at once")
    parser.add_argument("--alias", required=True, help="the model's name")
    parser.add_argument(
        "--workload", choices=get_args(PoolWorkload), default="generation", help="what it serves"
    )
    parser.add_argument("--slot-dir", type=Path, help="where slots may be saved")
    return parser


def _serve(arguments: argparse.Namespace) -> object:
    """Load the model and listen; the server runs in threads of its own while referred to."""
    try:
        import xllamacpp
    except ImportError:
        _fail(
            EmbeddedExit.WHEEL_MISSING,
            "xllamacpp is not installed: pip install 'llama-orch[embedded]'",
        )
    params = xllamacpp.CommonParams()
    params.model.path = str(arguments.model)
    params.model_alias = {arguments.alias}
    params.hostnames = [arguments.host]
    params.port = arguments.port
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.ctx * arguments.slots
    params.n_batch = BATCH_TOKENS
    if arguments.workload != "generation":
        params.embedding = True
        # A text is embedded in one piece: a smaller batch would refuse it.
        params.n_batch = params.n_ubatch = arguments.ctx
    if arguments.workload == "rerank":
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads()
    params.endpoint_metrics = params.endpoint_slots = True
    params.ui = False
    params.verbosity = LOG_WARNINGS
    key = engine_api_key()
    if key is not None:
        params.api_keys = [key.reveal()]
    if arguments.slot_dir is not None:
        params.slot_save_path = f"{arguments.slot_dir}/"
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        _explain(arguments)


def _threads() -> int:
    """Half the cores: a busy neighbour stalls every thread at llama.cpp's barrier."""
    return min(THREADS_MAX, max(1, len(os.sched_getaffinity(0)) // 2))


def _end_at_signals(handler: signal.Handlers | Callable[[int, object], None]) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def _stop(_number: int, _frame: object) -> NoReturn:
    # Not `sys.exit`: the server's threads would be joined, and they never end.
    os._exit(EmbeddedExit.STOPPED)


def _check_model(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        _fail(EmbeddedExit.BAD_MODEL, f"cannot read the model {path}: {error.strerror}")
    if magic != GGUF_MAGIC:
        _fail(EmbeddedExit.BAD_MODEL, f"{path} is not a GGUF model")


def _check_ranks(path: Path) -> None:
    """A model without a head to rank with: llama.cpp would give its first activation as score."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as model:
        names = [struct.pack("<Q", len(name)) + name for name in (*RANKING_TENSORS, SPLIT_KEY)]
        if any(model.find(name, 0, HEADER_BYTES) >= 0 for name in names):
            return
    _fail(
        EmbeddedExit.UNFIT_MODEL,
        f"{path} has no head to rank with: take a model that was made for `workload: rerank`",
    )


def _explain(arguments: argparse.Namespace) -> NoReturn:
    """llama.cpp has one message for every failure: a port that is free leaves the model."""
    _end_the_native_log()
    if _is_taken(arguments.host, arguments.port):
        _fail(
            EmbeddedExit.PORT_TAKEN,
            f"port {arguments.port} on {arguments.host} is taken, or is not ours to listen on",
        )
    _fail(
        EmbeddedExit.BAD_MODEL,
        f"llama.cpp cannot load {arguments.model} (ctx {arguments.ctx}, slots"
        f" {arguments.slots}): the file is damaged, of an unknown architecture, or too big",
    )


def _end_the_native_log() -> None:
    """Make standard error ours alone, at the start of a line.

    llama.cpp logs from a thread of its own, prefix and text in two writes, and a line of
    ours could land between them. From here on its log goes nowhere, and the newline closes
    the line it may have left open.
    """
    native = sys.stderr.fileno()
    ours = os.fdopen(os.dup(native), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, native)
    os.close(nowhere)
    sys.stderr = ours
    sys.stderr.write("\n")


def _is_taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _fail(code: EmbeddedExit, message: str) -> NoReturn:
    sys.stderr.write(f"embedded engine: {message}\n")
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
