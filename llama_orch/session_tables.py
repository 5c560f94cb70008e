"""How a session looks: a line of a list, or all of it."""

from __future__ import annotations

from rich.table import Table

from contracts.sessions import SessionView
from contracts.tasks import TaskView
from llama_orch.figures import budget_account, spent_of_limit
from llama_orch.output import duration, printable
from llama_orch.tables import of_facts
from llama_orch.waiting import about


def session_row(view: SessionView) -> dict[str, str]:
    """One line of the list; a cell is empty where there is neither limit nor use."""
    budgets = view.budgets
    return {
        "SESSION": view.session_id,
        "TURNS": f"{view.turns}/{view.max_turns}",
        "ACTIVE": str(view.active),
        "ENDS IN": duration(view.ttl_ms_remaining),
        "CACHED": f"{view.kv_warmth:.0%}",
        "REPLICA": view.replica_id or "",
        "TOKENS": spent_of_limit("tokens", budgets.tokens),
        "TIME": spent_of_limit("time_ms", budgets.time_ms),
        "COST": spent_of_limit("cost", budgets.cost),
    }


def session_facts(view: SessionView) -> Table:
    """All of one session."""
    table = of_facts()
    table.add_row("session", view.session_id)
    table.add_row("turns", f"{view.turns} of {view.max_turns}, {view.active} active")
    when = "after the last of its tasks" if view.active else "unless a task comes"
    table.add_row("ends in", f"{duration(view.ttl_ms_remaining)} {when}")
    if view.replica_id is not None:
        table.add_row("cache", f"{view.kv_warmth:.0%} of its newest prompt, on {view.replica_id}")
    table.add_row("tokens", budget_account("tokens", view.budgets.tokens))
    table.add_row("time", budget_account("time_ms", view.budgets.time_ms))
    table.add_row("cost", budget_account("cost", view.budgets.cost))
    return table


def task_row(view: TaskView) -> dict[str, str]:
    """One line of the tasks of a session."""
    starts, usage = view.predicted_start_ms, view.usage
    return {
        "TASK": view.task_id,
        "STATE": view.state.value,
        "STARTS IN": "" if starts is None else about(starts),
        "TOKENS": "" if usage is None else f"{usage.tokens_in} in, {usage.tokens_out} out",
        "MODEL": printable(view.model or ""),
        "ERROR": "" if view.error is None else view.error.code.value,
    }
