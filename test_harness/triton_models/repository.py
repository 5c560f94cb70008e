"""A model repository for a real Triton server."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

MODEL = Path(__file__).with_name("text_model.py")

INPUTS = {
    "max_tokens": ("TYPE_INT32", 1),
    "temperature": ("TYPE_FP32", 1),
    "random_seed": ("TYPE_UINT64", 1),
    "stop_words": ("TYPE_STRING", -1),
    "return_num_input_tokens": ("TYPE_BOOL", 1),
    "return_num_output_tokens": ("TYPE_BOOL", 1),
}
"""What the model reads besides its text: type and size."""
BARE = ("max_tokens",)
"""What the poorest model reads that can be served."""

_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input [
  {{ name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }}{inputs}
]
output [
  {{ name: "text_output" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "num_input_tokens" data_type: TYPE_UINT32 dims: [ 1 ] }},
  {{ name: "num_output_tokens" data_type: TYPE_UINT32 dims: [ 1 ] }}
]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
parameters {{ key: "delay_ms" value {{ string_value: "{delay_ms}" }} }}
parameters {{ key: "max_seq_len" value {{ string_value: "{ctx}" }} }}
"""


def write_text_model(
    repository: Path,
    name: str,
    *,
    inputs: Iterable[str] = tuple(INPUTS),
    instances: int = 2,
    delay_ms: int = 0,
    ctx: int = 512,
) -> None:
    """One text model in `repository`, which is made where it is not there.

    Args:
        inputs: which of `INPUTS` it declares; any of them may be left out of a request.
        instances: requests it serves at once.
        delay_ms: before each token.
        ctx: words of a prompt that are too many.
    """
    declared = "".join(
        ',\n  {{ name: "{}" data_type: {} dims: [ {} ] optional: true }}'.format(
            given, *INPUTS[given]
        )
        for given in inputs
    )
    version = repository / name / "1"
    version.mkdir(parents=True)
    config = _CONFIG.format(
        name=name, inputs=declared, instances=instances, delay_ms=delay_ms, ctx=ctx
    )
    (repository / name / "config.pbtxt").write_text(config)
    shutil.copyfile(MODEL, version / "model.py")
