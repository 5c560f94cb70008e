"""P-10: a reload that fails costs nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from test_harness.chaos.figures import Figures, exactly, timely
from test_harness.chaos.rig import POOL, fake_pool, served
from test_harness.chaos.supervision.watch import health
from test_harness.chaos.waits import ended, until
from test_harness.supervised import fake_command
from test_harness.task_client import TaskClient

FAULTS = ("bad-model", "hang-after-0", "mortal")
"""A bad file, one that never serves, one that dies a second after it served."""
DEADLINE_MS = 3_000
PROBATION_MS = 3_000
POSTED = 12


def reload_rolls_back(root: Path, seed: int, full: bool) -> Figures:
    """Each fault in turn, under load; the stand-in obeys the name of its model file."""
    rounds = 5 if full else 1
    code = (
        "import os,sys;name=os.path.basename(sys.argv[1]);argv=sys.argv[2:];"
        "fault=['--fault',name] if name in ('bad-model','hang-after-0') else [];"
        "mortal=['timeout','--foreground','2'] if name=='mortal' else [];"
        "argv=[*mortal,*argv,*fault];os.execvp(argv[0],argv)"
    )
    pool: dict[str, Any] = fake_pool(root, slots=2)
    command = [sys.executable, "-c", code, "{model}", *fake_command("--token-ms", "10")]
    pool["provisioning"] = {"mode": "command", "command": command}
    supervision = {"probation_ms": PROBATION_MS}
    states: list[str] = []
    lost, unready = 0, 0.0
    with served(root, pool, supervision=supervision) as stack, TaskClient(stack) as client:
        for fault in FAULTS * rounds:
            (root / fault).write_bytes(b"any file will do")
            tasks = [client.accept(max_tokens=20) for _ in range(POSTED)]
            body = {"new_model_ref": f"file:{root / fault}", "deadline_ms": DEADLINE_MS}
            with stack.client() as http:
                assert http.post(f"/v1/pools/{POOL}/reload", json=body).status_code == 202
            until(lambda: health(stack)["reload"]["state"] != "running", 60.0, "it is over")
            states.append(health(stack)["reload"]["state"])
            unready = max(unready, until(lambda: health(stack)["ready"], 60.0, "the old serves"))
            ended(stack)
            lost += sum(client.task(task)["state"] != "succeeded" for task in tasks)
        name = Path(health(stack)["replicas"][0]["model_ref"]).name
    return {
        "failed reloads": len(states),
        "rolled back": exactly(states.count("rolled_back"), len(states)),
        "tasks lost": exactly(lost, 0),
        "old model serves": exactly(name == "model.gguf", True),
        "until the old one served, s": timely(unready, 1.0, full),
    }
