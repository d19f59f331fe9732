"""The packed weight of com.microsoft.MatMulNBits: 2, 4 or 8 bits a code, low bits first."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.runtime.errors import ModelFileError

WEIGHT = 1
WIDTHS = (2, 4, 8)
ZERO_POINTS = 3


def n_bits_size(node: ir.Node) -> tuple[int, int, int]:
    """N, K and the bits of a code; the weight is [N, K].

    Raises:
        ModelFileError: one of them is missing or cannot be.
    """
    rows, columns, bits = (node.attributes.get(name) for name in ("N", "K", "bits"))
    width = 4 if bits is None else bits.as_int()
    if rows is None or columns is None or width not in WIDTHS:
        raise ModelFileError(f"node {node.name!r} (MatMulNBits) needs N, K and 2, 4 or 8 bits")
    if rows.as_int() < 1 or columns.as_int() < 1:
        raise ModelFileError(f"node {node.name!r} (MatMulNBits): N and K must be positive")
    return rows.as_int(), columns.as_int(), width


def count_nonzero_codes(
    node: ir.Node, packed: NDArray[np.uint8], zero_points: NDArray[Any] | None
) -> int:
    """Codes that differ from the zero point of their block.

    Args:
        node: The operator.
        packed: Codes [N, blocks, block_size * bits / 8]; the last block is filled up.
        zero_points: One for each block: packed uint8 [N * ceil(blocks * bits / 8)], or [N, blocks]
            in the type of the activations; None for the middle of the range.

    Raises:
        ModelFileError: the tensors do not fit the operator's attributes, or are no codes.
    """
    if packed.dtype != np.uint8:
        raise ModelFileError(
            f"node {node.name!r} (MatMulNBits): its weight must be uint8, not {packed.dtype}"
        )
    try:
        return _count(node, packed, zero_points)
    except ValueError as error:
        raise ModelFileError(
            f"node {node.name!r} (MatMulNBits): its weight does not fit its N, K and bits"
        ) from error


def _count(node: ir.Node, packed: NDArray[np.uint8], zero_points: NDArray[Any] | None) -> int:
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
