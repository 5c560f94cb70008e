"""How many bytes a tensor of each ggml type takes.

The numbers are those of llama.cpp's `ggml_type` and of `GGML_QUANT_SIZES` in its
package `gguf`, which a test compares; the numbers that are missing belonged to
types that were withdrawn.
"""

from __future__ import annotations

from typing import NamedTuple


class GgmlType(NamedTuple):
    """Elements of one block, and its bytes."""

    elements: int
    size: int


GGML_TYPES = {
    0: GgmlType(1, 4),  # F32
    1: GgmlType(1, 2),  # F16
    2: GgmlType(32, 18),  # Q4_0
    3: GgmlType(32, 20),  # Q4_1
    6: GgmlType(32, 22),  # Q5_0
    7: GgmlType(32, 24),  # Q5_1
    8: GgmlType(32, 34),  # Q8_0
    9: GgmlType(32, 40),  # Q8_1
    10: GgmlType(256, 84),  # Q2_K
    11: GgmlType(256, 110),  # Q3_K
    12: GgmlType(256, 144),  # Q4_K
    13: GgmlType(256, 176),  # Q5_K
    14: GgmlType(256, 210),  # Q6_K
    15: GgmlType(256, 292),  # Q8_K
    16: GgmlType(256, 66),  # IQ2_XXS
    17: GgmlType(256, 74),  # IQ2_XS
    18: GgmlType(256, 98),  # IQ3_XXS
    19: GgmlType(256, 50),  # IQ1_S
    20: GgmlType(32, 18),  # IQ4_NL
    21: GgmlType(256, 110),  # IQ3_S
    22: GgmlType(256, 82),  # IQ2_S
    23: GgmlType(256, 136),  # IQ4_XS
    24: GgmlType(1, 1),  # I8
    25: GgmlType(1, 2),  # I16
    26: GgmlType(1, 4),  # I32
    27: GgmlType(1, 8),  # I64
    28: GgmlType(1, 8),  # F64
    29: GgmlType(256, 56),  # IQ1_M
    30: GgmlType(1, 2),  # BF16
    34: GgmlType(256, 54),  # TQ1_0
    35: GgmlType(256, 66),  # TQ2_0
    39: GgmlType(32, 17),  # MXFP4
    40: GgmlType(64, 36),  # NVFP4
    41: GgmlType(128, 18),  # Q1_0
}
"""By the number in the file."""
