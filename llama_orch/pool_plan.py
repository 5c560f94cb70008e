"""`pools plan`: what each pool will do to come up, before a daemon is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pydantic import ValidationError

from contracts.plans import Plans, ProvisioningPlan
from contracts.service.settings import client_environment
from llama_orch.failures import ExitCode, Failed
from llama_orch.output import Output, printable

PLANNER_S = 60.0


def show_plans(pool: str | None, config: Path | None, output: Output) -> int:
    """Print the plans; exit 1 where this machine lacks something for one."""
    plans = _plans(pool, config or client_environment().config_path)
    if output.json_mode:
        output.emit(plans.model_dump(mode="json"))
    else:
        output.write("".join(map(_words, plans.items)))
    return ExitCode.FAILED if any(plan.missing for plan in plans.items) else ExitCode.OK


def _plans(pool: str | None, config: Path) -> Plans:
    """Asked of pool_managerd's own planner, which starts nothing."""
    argv = [sys.executable, "-m", "pool_managerd.plan", "--config", str(config)]
    try:
        done = subprocess.run(
            [*argv, *([] if pool is None else ["--", pool])],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PLANNER_S,
            check=False,
            text=True,
        )
        if done.returncode == 0:
            return Plans.model_validate_json(done.stdout)
    except subprocess.TimeoutExpired:
        raise Failed(f"the plan was not made within {PLANNER_S:g} s") from None
    except ValidationError:
        raise Failed("the planner answered nonsense; is the installation whole?") from None
    said = printable(done.stderr.strip() or f"exit code {done.returncode}")
    raise Failed(f"no plan: {said}")


def _words(plan: ProvisioningPlan) -> str:
    lines = [f"{plan.pool_id} ({plan.mode})"]
    for number, step in enumerate(plan.steps, start=1):
        lines.append(f"  {number}. {step.what}")
        if step.argv:
            lines.append(f"     {' '.join([*step.env, *step.argv])}")
    lines.extend(f"  missing: {lack.tool}; remedy: {lack.remedy}" for lack in plan.missing)
    return "".join(f"{printable(line)}\n" for line in lines)
