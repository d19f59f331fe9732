"""Which int8 kernels onnxruntime picks for a processor, and whether their sums can overflow.

It picks by instruction set, in this order (onnxruntime, core/mlas/lib/platform.cpp). What that
means for exactness is a fact of the instructions; `edgekit doctor` measures it besides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Int8Kernels:
    """Kernels for uint8 activations and int8 weights.

    Attributes:
        name: The instructions that they are made of.
        needs: Names in `machine.ISA_NAMES`; the processor has all of them.
        saturates: Whether sums of two products are clipped to 16 bits.
        target: What to quantize for.
        remark: What else decides speed.
    """

    name: str
    needs: tuple[str, ...]
    saturates: bool
    target: str
    remark: str


INT8_KERNELS: tuple[Int8Kernels, ...] = (
    Int8Kernels(
        "AMX", ("amx_int8", "avx512_vnni"), False, "avx512-vnni", "tiles for matrix products"
    ),
    Int8Kernels("AVX512-VNNI", ("avx512_vnni", "avx512bw"), False, "avx512-vnni", "full speed"),
    Int8Kernels("AVX512", ("avx512bw",), True, "avx2", "no VNNI: half the speed at best"),
    Int8Kernels("AVX-VNNI", ("avx_vnni", "avx2"), False, "avx512-vnni", "full speed, 256 bits"),
    Int8Kernels("AVX2", ("avx2",), True, "avx2", "no VNNI: little faster than float32"),
    Int8Kernels("ARM i8mm", ("i8mm",), False, "arm64", "full speed, signed activations best"),
    Int8Kernels("ARM dot product", ("asimddp",), False, "arm64", "signed activations best"),
    Int8Kernels("NEON", ("neon",), False, "arm64", "no dot product: little faster than float32"),
)
PORTABLE = Int8Kernels("portable", (), False, "avx512-vnni", "no instructions for it known here")


def int8_kernels(isa: Iterable[str]) -> Int8Kernels:
    """The kernels for a processor with these of `machine.ISA_NAMES`."""
    present = set(isa)
    found = (kernels for kernels in INT8_KERNELS if present.issuperset(kernels.needs))
    return next(found, PORTABLE)
