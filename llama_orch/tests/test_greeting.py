"""What `up` shows to paste is a task that can be served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contracts.capabilities import PoolPage
from contracts.service.settings import load_settings
from llama_orch.greeting import greeting
from llama_orch.tests.test_pools import pool

CONFIG = """\
state_dir: {state}
pools:
  - {{id: a, engine: llamacpp, model: {{id: a-emb, ref: "file:/m"}}, workload: embedding,
     provisioning: {{mode: embedded}}}}
  - {{id: r, engine: llamacpp, model: {{id: b-rank, ref: "file:/m"}}, workload: rerank,
     provisioning: {{mode: embedded}}}}
  - {{id: z, engine: llamacpp, model: {{id: z-chat, ref: "file:/m"}},
     provisioning: {{mode: embedded}}}}
"""


@pytest.mark.parametrize(
    ("ready", "submitted", "posted"),
    [
        ("arz", 'submit --model z-chat "Why is the sky blue?"', {"prompt": "Hello"}),
        ("ar", 'submit --model a-emb --workload embedding --input "a cat"', {"inputs": 2}),
        ("r", 'submit --workload rerank "what purrs?" --input "a cat"', {"inputs": 3}),
        ("", 'submit "Why is the sky blue?"', {"model": "MODEL"}),
    ],
)
def test_the_example_is_of_a_model_that_writes_text_where_one_is_served(
    tmp_path: Path, ready: str, submitted: str, posted: dict[str, object]
) -> None:
    """LO-CMD-084."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(state=tmp_path / "state"))
    names = {"a": "a-emb", "r": "b-rank", "z": "z-chat"}
    items = [pool(pool_id=key, model_id=name, ready=key in ready) for key, name in names.items()]
    rest: dict[str, object] = {"devices": [], "devices_age_ms": None, "next_cursor": None}
    page = PoolPage.model_validate_json(
        json.dumps({"items": items, "pool_manager": "connected", **rest})
    )
    said = greeting("http://h:1", load_settings(path), page, None)
    assert submitted in said
    body = json.loads(said.split("-d '")[1].split("'")[0])
    for key, wanted in posted.items():
        assert (len(body[key]) if isinstance(wanted, int) else body[key]) == wanted
