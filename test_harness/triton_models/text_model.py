"""The model itself, run by Triton's Python backend and never imported here.

It says ` w0 w1 w2 …`, `max_tokens` of them at most; with a temperature above 0, words
that follow the seed.  A word of the prompt may tell it more:

    len=N        it ends by itself after N tokens
    delay=MS     so long before each token
    error        it refuses at once
    error=N      it fails after N tokens
    die          its process ends
    long=N       its prompt counts as N tokens more

It ends at a stop string, and sends it along.  Where its parameter `max_seq_len` is set
it refuses a longer prompt, in the words of TensorRT-LLM.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

ENDLESS = 1_000_000
VOCABULARY = 1000


class TritonPythonModel:
    """One instance, which serves one request at a time."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the pace and the size from the model's parameters."""
        parameters = json.loads(args["model_config"])["parameters"]
        told = {name: value["string_value"] for name, value in parameters.items()}
        self.delay_ms = float(told.get("delay_ms", 0))
        self.max_seq_len = int(told.get("max_seq_len", ENDLESS))

    def execute(self, requests: list[Any]) -> None:
        """Answer each request through its own sender: the model is decoupled."""
        for request in requests:
            self._answer(request)

    def _answer(self, request: Any) -> None:
        sender = request.get_response_sender()
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            for tensors in self._tensors(request, sender):
                sender.send(pb_utils.InferenceResponse(tensors))
        except ValueError as error:
            failed = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            sender.send(failed, flags=final)
        else:
            sender.send(flags=final)

    def _tensors(self, request: Any, sender: Any) -> Iterator[list[Any]]:
        words = _values(request, "text_input", [b""])[0].decode().split()
        if "die" in words:
            os._exit(3)
        if "error" in words:
            raise ValueError("the prompt asks for an error")
        asked = dict(word.split("=", 1) for word in words if "=" in word)
        size = len(words) + int(asked.get("long", 0))
        if size >= self.max_seq_len:
            raise ValueError(
                f"Prompt length ({size}) exceeds maximum input length ({self.max_seq_len})."
            )
        counts = bool(_values(request, "return_num_input_tokens", [False])[0])
        for text in self._texts(request, sender, asked):
            tensors = [pb_utils.Tensor("text_output", np.array([text.encode()], dtype=object))]
            if counts:
                tensors.append(pb_utils.Tensor("num_input_tokens", np.array([size], np.uint32)))
                tensors.append(pb_utils.Tensor("num_output_tokens", np.array([1], np.uint32)))
            yield tensors

    def _texts(self, request: Any, sender: Any, asked: dict[str, str]) -> Iterator[str]:
        length = min(int(asked.get("len", ENDLESS)), int(_values(request, "max_tokens", [16])[0]))
        delay_s = float(asked.get("delay", self.delay_ms)) / 1000
        stops = [stop.decode() for stop in _values(request, "stop_words", [])]
        sampled = float(_values(request, "temperature", [0.0])[0]) > 0
        chance = random.Random(int(_values(request, "random_seed", [0])[0]))
        said = ""
        for index in range(length):
            if str(index) == asked.get("error"):
                raise ValueError(f"it failed after {index} tokens")
            time.sleep(delay_s)
            if sender.is_cancelled():
                pb_utils.Logger.log_info(f"CANCELED after {index} tokens")
                return
            text = f" w{chance.randrange(VOCABULARY) if sampled else index}"
            yield text
            said += text
            if any(said.endswith(stop) for stop in stops):
                return


def _values(request: Any, name: str, default: list[Any]) -> list[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else list(tensor.as_numpy().reshape(-1))
