"""Which quantized layers can overflow on x86 processors that have AVX2 but not VNNI.

There onnxruntime multiplies uint8 activations x by int8 weights w with VPMADDUBSW, which adds each
pair of neighbouring products in 16 bits, and keeps to the nearest end where they do not fit:

    clip(x[2i] w[2i] + x[2i+1] w[2i+1], -32768, 32767)

(Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, PMADDUBSW). A code reaches
255, so an output channel is safe if no pair of its weights of one sign adds up to more than 128 in
size: 255 * 128 = 32640. Weights of 7 bits, from -64 to 64, always are.

Neighbours are taps 2i and 2i + 1 of a group's taps in the order rows, columns, channels: of one
kernel position, two adjacent input channels where their number is even. That is how MLAS packs
weights for its convolution and matrix kernels (onnxruntime, core/mlas/lib/convsym.cpp and
qgemm_kernel_avx2.cpp). Other runtimes may pair otherwise, so the audit counts also the channels
whose two largest weights of one sign would overflow, wherever they are. Depthwise convolutions are
widened before they are multiplied, and uint8 weights take a kernel of 32 bits: both are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.bench.exact_integer import QuantizedConv, weight_rows
from edgekit.bench.unpacked import unpack
from edgekit.bench.weights import input_at, storage_type, stored_tensor
from edgekit.export.graph import from_proto, load_graph, nodes
from edgekit.export.pack import METADATA_KEY
from edgekit.runtime.errors import ModelFileError, naming
from edgekit.runtime.model_file import read_model

LARGEST_CODE = 255
_LOWEST, _HIGHEST = -(2**15), 2**15 - 1

# Operators that multiply, with the places of their activations and weights.
_MULTIPLY: dict[str, tuple[int, int]] = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "QGemm": (0, 3),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}
_CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")


@dataclass(frozen=True)
class LayerSaturation:
    """A quantized layer whose 16-bit sums of pairs can overflow.

    Attributes:
        node: Its name.
        op_type: Its operator.
        channels: Output channels that it has.
        overflowing: Those of them with a pair of neighbouring weights that can overflow.
        overflowing_any_order: Those that could if other weights were neighbours.
        largest_sum: Largest size of a sum of two products, as onnxruntime pairs them; a sum above
            32767 is clipped.
    """

    node: str
    op_type: str
    channels: int
    overflowing: int
    overflowing_any_order: int
    largest_sum: int


@dataclass(frozen=True)
class SaturationAudit:
    """The layers of a model that multiply uint8 by int8.

    Attributes:
        checked: How many there are.
        layers: Those that can overflow, in the graph's order.
    """

    checked: int
    layers: tuple[LayerSaturation, ...]

    @property
    def overflowing(self) -> int:
        """Layers that overflow as onnxruntime pairs weights."""
        return sum(layer.overflowing > 0 for layer in self.layers)


def audit_file(path: Path) -> SaturationAudit:
    """Check the layers of a quantized model's file; a packed one is unpacked in memory.

    Raises:
        ModelFileError: the file is missing, damaged or not a valid ONNX model.
    """
    model = load_graph(path)
    with naming(path):
        if METADATA_KEY in model.metadata_props:
            proto = read_model(path)
            onnx.load_external_data_for_model(proto, str(path.absolute().parent))
            unpack(proto)
            model = from_proto(proto)
        return audit(model)


def audit(model: ir.Model) -> SaturationAudit:
    """Check every layer with int8 weights: QuantizeLinear pairs, integer operators, Q operators.

    Layers on int8 activations are among them: onnxruntime turns their codes into uint8 on x86.
    """
    checked, found = 0, []
    for node, weights in _layers(model):
        checked += 1
        layer = _check(node, weights)
        if layer.overflowing or layer.overflowing_any_order:
            found.append(layer)
    return SaturationAudit(checked, tuple(found))


def can_saturate(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a sum of two neighbouring products can overflow: bool [M] for weights [M, taps]."""
    return _largest_sums(_pair_up(rows)) > _HIGHEST


def saturating_sums(conv: QuantizedConv) -> NDArray[np.int64]:
    """What `QuantizedConv.accumulate` gives where VPMADDUBSW adds: int64 [N, M, height, width].

    Args:
        conv: A convolution of uint8 by int8, not depthwise.
    """
    rows = conv.weight_rows()
    taps, weights = _pair_up(conv.taps()), _pair_up(rows)
    products = taps[:, :, None, :] * weights[None, :, :, None]
    sums = np.clip(products.sum(-1), _LOWEST, _HIGHEST).sum(-1)
    x_sums = conv.taps().sum(-1)[:, :, None, :]
    w_sums = rows.sum(-1)[None, :, :, None]
    zeros = conv.x_zero * conv.w_zero * rows.shape[-1]
    return conv.with_bias(sums - conv.x_zero * w_sums - conv.w_zero * x_sums + zeros)


def _layers(model: ir.Model) -> Iterator[tuple[ir.Node, NDArray[np.int64]]]:
    """Nodes that multiply by int8 weights in pairs, with these as [M, taps]."""
    for node in nodes(model):
        places = _MULTIPLY.get(node.op_type)
        if places is None or not _quantized_activations(node, places[0]):
            continue
        codes = _codes(input_at(node, places[1]))
        if codes is None or codes.dtype != np.int8 or not codes.size:
            continue
        _check_axes(node, codes)
        if not _is_depthwise(node, codes):
            yield node, _as_rows(node, codes)


def _check_axes(node: ir.Node, codes: NDArray[np.integer]) -> None:
    """Refuse weights of fewer axes than a node takes; a product by one vector is fine."""
    fewest = 1 if "MatMul" in node.op_type else 2
    if codes.ndim < fewest:
        raise ModelFileError(
            f"node {node.name!r} ({node.op_type}) cannot take weights of shape "
            f"{list(codes.shape)}: check the model with onnx.checker"
        )


def _quantized_activations(node: ir.Node, place: int) -> bool:
    """Whether a node multiplies codes, or floats that were codes just before."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return True
    value = input_at(node, place)
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "DequantizeLinear" or not producer.inputs[1:]:
        return False
    eight_bits = (ir.DataType.UINT8, ir.DataType.INT8)
    codes = producer.inputs[0]
    zero = producer.inputs[2] if len(producer.inputs) > 2 else None
    known = [v.dtype for v in (zero, codes) if v is not None and v.dtype is not None]
    return bool(known) and known[0] in eight_bits


def _codes(value: ir.Value | None) -> NDArray[np.integer] | None:
    """Integer weights behind a value; None where it has none, or computes them."""
    while value is not None:
        if stored_tensor(value) is not None:
            break
        node = value.producer()
        if node is None or node.op_type not in ("DequantizeLinear", "Transpose"):
            return None
        if node.op_type == "Transpose":
            return _transposed(node)
        value = input_at(node, 0)
    if value is None or storage_type(value) not in (ir.DataType.INT8, ir.DataType.UINT8):
        return None
    stored = stored_tensor(value)
    return None if stored is None else stored.array()


def _transposed(node: ir.Node) -> NDArray[np.integer] | None:
    codes = _codes(input_at(node, 0))
    order = node.attributes.get("perm")
    if codes is None or order is None:
        return None if codes is None else codes.transpose()
    axes = order.as_ints()
    if sorted(axes) != list(range(codes.ndim)):
        raise ModelFileError(
            f"node {node.name!r} cannot put axes of shape {list(codes.shape)} in the order "
            f"{list(axes)}: check the model with onnx.checker"
        )
    return codes.transpose(axes)


def _is_depthwise(node: ir.Node, codes: NDArray[np.integer]) -> bool:
    groups = node.attributes.get("group")
    count = 1 if groups is None else groups.as_int()
    return (
        node.op_type in _CONVOLUTIONS and count > 1 and codes.shape[1] == 1 and len(codes) == count
    )


def _as_rows(node: ir.Node, codes: NDArray[np.integer]) -> NDArray[np.int64]:
    if node.op_type in _CONVOLUTIONS:
        return weight_rows(codes)
    transposed = node.attributes.get("transB")
    matrix = codes.astype(np.int64)
    if matrix.ndim == 1:
        return matrix[None]  # one column
    if transposed is None or not transposed.as_int():
        matrix = np.moveaxis(matrix, -2, -1)
    return matrix.reshape(-1, matrix.shape[-1])


def _check(node: ir.Node, rows: NDArray[np.int64]) -> LayerSaturation:
    paired = _largest_sums(_pair_up(rows))
    return LayerSaturation(
        node=str(node.name),
        op_type=node.op_type,
        channels=len(rows),
        overflowing=int((paired > _HIGHEST).sum()),
        overflowing_any_order=int((_largest_sums(_two_largest(rows)) > _HIGHEST).sum()),
        largest_sum=int(paired.max(initial=0)),
    )


def _pair_up(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """[..., taps] as [..., pairs, 2]; an odd last one stands beside a zero."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    return values.reshape(*values.shape[:-1], -1, 2)


def _two_largest(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The two highest and the two lowest of each row: [M, 2, 2]."""
    ordered = np.sort(np.concatenate([rows, np.zeros((len(rows), 2), np.int64)], 1), axis=1)
    return np.stack([ordered[:, :2], ordered[:, -2:]], axis=1)


def _largest_sums(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Largest size of a sum of two products of codes with weights [M, pairs, 2]: int64 [M]."""
    high = np.maximum(pairs, 0).sum(-1).max(-1, initial=0)
    low = np.maximum(-pairs, 0).sum(-1).max(-1, initial=0)
    return np.asarray(np.maximum(high, low) * LARGEST_CODE)
