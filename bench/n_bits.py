"""The packed weight of com.microsoft.MatMulNBits: 2, 4 or 8 bits a code, low bits first."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

WEIGHT = 1
ZERO_POINTS = 3


def n_bits_size(node: ir.Node) -> tuple[int, int, int]:
    """N, K and the bits of a code; the weight is [N, K]."""
    bits = node.attributes.get("bits")
    width = 4 if bits is None else bits.as_int()
    return node.attributes["N"].as_int(), node.attributes["K"].as_int(), width


def count_nonzero_codes(
    node: ir.Node, packed: NDArray[np.uint8], zero_points: NDArray[Any] | None
) -> int:
    """Codes that differ from the zero point of their block.

    Args:
        node: The operator.
        packed: Codes [N, blocks, block_size * bits / 8]; the last block is filled up.
        zero_points: One for each block: packed uint8 [N * ceil(blocks * bits / 8)], or [N, blocks]
            in the type of the activations; None for the middle of the range.
    """
    rows, columns, bits = n_bits_size(node)
    blocks = packed.shape[1] if packed.ndim > 1 else packed.size // rows
    if zero_points is None:
        zeros: NDArray[Any] = np.full((rows, blocks), 1 << (bits - 1), np.uint8)
    elif zero_points.dtype == np.uint8:
        zeros = _unpacked(zero_points.reshape(rows, -1), bits)[:, :blocks]
    else:
        zeros = zero_points.reshape(rows, blocks)
    nonzero = 0
    for row, points in zip(packed.reshape(rows, -1), zeros, strict=True):
        codes = _unpacked(row.reshape(blocks, -1), bits)
        nonzero += int(np.count_nonzero((codes != points[:, None]).reshape(-1)[:columns]))
    return nonzero


def _unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes of the last axis, one a byte."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)
