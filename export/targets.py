"""Processors to quantize for: what their int8 kernels multiply fast and exactly.

| target | activations | weights | because |
|---|---|---|---|
| `avx2` | uint8 | int8, 7 bits | sums of two products overflow 16 bits with 8 |
| `avx512-vnni` | uint8 | int8 | uint8 by int8 is what VNNI and AMX multiply, in 32 bits |
| `arm64` | int8 | int8 | int8 by int8 is what SDOT and SMMLA multiply, in 32 bits |

onnxruntime advises the same: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
(Performance Considerations). On x86 it turns int8 activations into uint8, at no cost for accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.export.to_qdq import ActivationType
from edgekit.runtime.errors import InputError

AUTO = "auto"


@dataclass(frozen=True)
class Target:
    """What suits a processor.

    Attributes:
        activations: Type of the codes of activations, in an int8 model.
        reduce_range: Whether weights keep to 7 bits.
    """

    activations: ActivationType
    reduce_range: bool


TARGETS: dict[str, Target] = {
    "avx2": Target("QUInt8", reduce_range=True),
    "avx512-vnni": Target("QUInt8", reduce_range=False),
    "arm64": Target("QInt8", reduce_range=False),
}


def find_target(name: str) -> Target:
    """An entry of `TARGETS`.

    Raises:
        InputError: there is no such target.
    """
    if name not in TARGETS:
        known = ", ".join([*TARGETS, AUTO])
        raise InputError(f"--target {name}: no such target; choose one of {known}")
    return TARGETS[name]
