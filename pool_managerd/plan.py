"""python -m pool_managerd.plan --config FILE [POOL]

What each pool of a configuration will do to come up, and what this machine lacks for
it, as JSON on stdout (`contracts.plans`).  Nothing is started, fetched or made.  Exit
codes: 0, 2 for a pool that is not configured, 78 for a configuration that is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from contracts.config import Config, External, Pool
from contracts.plans import TOOL_MAX, MissingTool, Plans, PlanStep, ProvisioningPlan
from contracts.service.config_source import ConfigError
from contracts.service.settings import model_file, model_problem, read_config
from pool_managerd.launch import HOST
from pool_managerd.provisioning.registry import MODES
from pool_managerd.provisioning.showing import SHOWN_KEY, SHOWN_PORT
from worker_adapters.base import LaunchSpec

EXIT_UNKNOWN_POOL = 2
EXIT_BAD_CONFIG = 78


def main(argv: list[str] | None = None) -> int:
    """Print the plans."""
    parser = argparse.ArgumentParser(prog="python -m pool_managerd.plan")
    parser.add_argument("--config", type=Path, metavar="FILE")
    parser.add_argument("pool", nargs="?", metavar="POOL")
    arguments = parser.parse_args(argv)
    try:
        config, _ = read_config(arguments.config)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_CONFIG
    wanted = [pool for pool in config.pools if arguments.pool in (None, pool.id)]
    if arguments.pool is not None and not wanted:
        sys.stderr.write(f"no pool {arguments.pool} is configured\n")
        return EXIT_UNKNOWN_POOL
    try:
        plans = Plans(items=tuple(plan_of(pool, config) for pool in wanted))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_CONFIG
    sys.stdout.write(plans.model_dump_json() + "\n")
    return 0


def plan_of(pool: Pool, config: Config) -> ProvisioningPlan:
    """The plan of one pool."""
    if isinstance(pool.provisioning, External):
        what = f"watch the server at {pool.provisioning.url}; it is started by somebody else"
        steps = (PlanStep(what=what),)
        return ProvisioningPlan(pool_id=pool.id, mode="external", steps=steps, missing=())
    spec, mode = _spec(pool), MODES[pool.provisioning.mode]
    return ProvisioningPlan(
        pool_id=pool.id,
        mode=pool.provisioning.mode,
        steps=(_model_step(pool, config), *mode.steps(pool, spec)),
        missing=(*_missing_model(pool), *mode.missing(pool, spec)),
    )


def _missing_model(pool: Pool) -> tuple[MissingTool, ...]:
    """The model that should be on this machine and is not."""
    path = model_file(pool.model.ref)
    what = None if path is None else model_problem(path, pool.model_kind)
    if what is None:
        return ()
    remedy = f"{what}; put the model there, or change the ref"
    return (MissingTool(tool=f"{pool.model.ref:.{TOOL_MAX}}", remedy=remedy),)


def _model_step(pool: Pool, config: Config) -> PlanStep:
    path = model_file(pool.model.ref)
    if path is not None:
        return PlanStep(what=f"take the model at {path}")
    allowed = "" if config.policy.downloads.allow else " (policy.downloads.allow is off)"
    return PlanStep(what=f"fetch the model {pool.model.ref} into the cache{allowed}")


def _spec(pool: Pool) -> LaunchSpec:
    """A launch of its first replica: what each launch chooses is shown by its name."""
    return LaunchSpec(
        model_path=model_file(pool.model.ref) or Path("{model}"),
        model_alias=pool.model.id,
        host=HOST,
        port=SHOWN_PORT,
        ctx=pool.ctx,
        slots=pool.slots,
        device_uuids=tuple(f"{{gpu {device}}}" for device in pool.replicas[0].devices or ()),
        engine_args=pool.engine_args,
        workload=pool.workload,
        api_key=SHOWN_KEY,
    )


if __name__ == "__main__":
    sys.exit(main())
