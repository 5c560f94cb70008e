"""The command's front door: the list of commands, and one place where things end.

Whatever a command raises becomes one line on stderr (an `error` object on stdout
under `--json`) and a documented exit code; nobody sees a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import typer
from typer.main import get_command

from contracts.service.settings import ConfigError
from llama_orch.capabilities import capabilities
from llama_orch.config_commands import config_app
from llama_orch.determinism.commands import determinism_app
from llama_orch.failures import CommandFailure, ExitCode, Failed, UsageMistake
from llama_orch.logs import logs
from llama_orch.output import Output
from llama_orch.overview import ps, status
from llama_orch.pools import pools_app
from llama_orch.quickstart import quickstart
from llama_orch.sessions import sessions_app
from llama_orch.submit import stream, submit
from llama_orch.tasks import cancel, queue
from llama_orch.up import up

app = typer.Typer(
    name="llama-orch",
    help="Run language models on this machine: queue, place and stream tasks.",
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 unreachable, 4 refused by the server,"
    " 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (up, quickstart, submit, stream, cancel, status, queue, ps, capabilities, logs):
    app.command()(command)
app.add_typer(sessions_app)
app.add_typer(pools_app)
app.add_typer(determinism_app)
app.add_typer(config_app)


def main() -> None:
    """Run the command line of this process, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run `argv`, return the exit code; never raises an Exception."""
    output = Output(json_mode=_wants_json(argv))
    try:
        result = get_command(app).main(
            args=list(argv), prog_name="llama-orch", standalone_mode=False
        )
        sys.stdout.flush()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; the flush at exit must not say so again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as error:  # noqa: BLE001  the boundary: every failure is told here
        return _told(error, output)
    return result if isinstance(result, int) else ExitCode.OK


def _told(error: BaseException, output: Output) -> int:
    failure = _failure(error)
    if not failure.message:
        return failure.exit_code  # a bare `llama-orch`: its help has been shown
    with suppress(OSError):  # nobody may be left to tell
        output.fail(failure)
    return failure.exit_code


def _failure(error: BaseException) -> CommandFailure:
    """What to say of `error`; of a group, its first."""
    if isinstance(error, CommandFailure):
        return error
    if isinstance(error, BaseExceptionGroup):
        return _failure(error.exceptions[0])
    if isinstance(error, ConfigError):
        return Failed(str(error))
    if isinstance(error, typer.TyperException):
        return _usage(error)
    return Failed(
        f"a defect in llama-orch: {type(error).__name__}: {error}; please report the command"
        " line that led here"
    )


def _usage(error: typer.TyperException) -> CommandFailure:
    if error.exit_code != ExitCode.USAGE:
        return Failed(error.format_message())
    context = getattr(error, "ctx", None)
    path = "llama-orch" if context is None else context.command_path
    message = error.format_message().rstrip(".")
    return UsageMistake(f"{message}; see `{path} --help`" if message else "")


def _wants_json(argv: Sequence[str]) -> bool:
    """Whether `--json` stands among the options, for failures before they are parsed."""
    options = list(argv)[: argv.index("--")] if "--" in argv else argv
    return "--json" in options
