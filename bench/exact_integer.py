"""Quantized convolution in exact integer arithmetic, to hold the kernels of a runtime against.

For codes x, w with zero points and scales, the operator QLinearConv of ONNX is

    a = sum over taps (x - x_zero) (w - w_zero) + bias          in integers, here of 64 bits
    y = clip(round_half_even(a * x_scale * w_scale / y_scale) + y_zero)

(https://onnx.ai/onnx/operators/onnx__QLinearConv.html). Only the last line rounds. A kernel that
multiplies in float32 there may land on the other side of a half, one step off, never more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_OPSET = 20
_IR_VERSION = 10


@dataclass(frozen=True)
class QuantizedConv:
    """One convolution of codes, with its input.

    Attributes:
        x: Input codes: uint8 or int8 [N, C, H, W].
        w: Weight codes: uint8 or int8 [M, C / groups, kernel height, kernel width].
        bias: int32 [M], at scale x_scale * w_scale.
        x_scale: Step of the input codes.
        w_scale: Step of the weight codes: float32, [1] or [M].
        y_scale: Step of the output codes, which have the type of the input's.
        x_zero: Code of zero; w_zero and y_zero likewise.
        w_zero: The same for all channels.
        y_zero: Code of zero at the output.
        strides: Down and across.
        dilations: Down and across.
        pads: Top, left, bottom, right, filled with the input's zero point.
        groups: Groups of channels.
    """

    x: NDArray[np.integer]
    w: NDArray[np.integer]
    bias: NDArray[np.int32]
    x_scale: float
    w_scale: NDArray[np.float32]
    y_scale: float
    x_zero: int
    w_zero: int
    y_zero: int
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved for itself."""
        return self.groups > 1 and self.w.shape[1] == 1 and len(self.w) == self.groups

    def expected(self) -> NDArray[np.integer]:
        """The exact output codes [N, M, height, width], of the input's type."""
        return self.requantize(self.accumulate())

    def accumulate(self) -> NDArray[np.int64]:
        """The exact sums with bias: int64 [N, M, height, width]."""
        taps = self.taps() - self.x_zero
        weights = self.weight_rows() - self.w_zero
        return self.with_bias(np.einsum("ngpk,gmk->ngmp", taps, weights))

    def taps(self) -> NDArray[np.int64]:
        """The input codes under each output position: int64 [N, groups, positions, taps].

        The taps are in the order rows, columns, channels, as channels-last kernels read them.
        """
        top, left, bottom, right = self.pads
        padded = np.pad(
            self.x.astype(np.int64),
            ((0, 0), (0, 0), (top, bottom), (left, right)),
            constant_values=self.x_zero,
        )
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilations, self.w.shape[2:], strict=True)]
        (down, across), (far_down, far_across) = self.strides, self.dilations
        windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
        windows = windows[:, :, ::down, ::across, ::far_down, ::far_across]
        n, channels, height, width = windows.shape[:4]
        grouped = windows.reshape(n, self.groups, channels // self.groups, height, width, -1)
        ordered = grouped.transpose(0, 1, 3, 4, 5, 2)
        return ordered.reshape(n, self.groups, height * width, -1)

    def weight_rows(self) -> NDArray[np.int64]:
        """The weight codes in the order of `taps`: int64 [groups, M / groups, taps]."""
        return weight_rows(self.w).reshape(self.groups, len(self.w) // self.groups, -1)

    def with_bias(self, sums: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sums [N, groups, M / groups, positions] as [N, M, height, width], the bias added."""
        height, width = self.output_size
        whole = sums.reshape(len(self.x), len(self.w), height, width)
        return whole + self.bias.astype(np.int64)[:, None, None]

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        top, left, bottom, right = self.pads
        padded = (self.x.shape[2] + top + bottom, self.x.shape[3] + left + right)
        height, width = (
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, dilation, kernel, stride in zip(
                padded, self.dilations, self.w.shape[2:], self.strides, strict=True
            )
        )
        return height, width

    def requantize(self, sums: NDArray[np.int64]) -> NDArray[np.integer]:
        """Output codes for sums [N, M, height, width]."""
        steps = np.float64(self.x_scale) * self.w_scale.astype(np.float64) / self.y_scale
        limits = np.iinfo(self.x.dtype)
        codes = np.rint(sums * steps.reshape(-1, 1, 1)) + self.y_zero
        return np.asarray(np.clip(codes, limits.min, limits.max), self.x.dtype)

    def to_onnx(self) -> onnx.ModelProto:
        """A model of one QLinearConv, input `x` and output `y`."""
        w_zeros = np.full(self.w_scale.shape, self.w_zero, self.w.dtype)
        constants = {
            "x_scale": np.float32(self.x_scale),
            "x_zero": self.x.dtype.type(self.x_zero),
            "w": self.w,
            "w_scale": self.w_scale,
            "w_zero": w_zeros,
            "y_scale": np.float32(self.y_scale),
            "y_zero": self.x.dtype.type(self.y_zero),
            "bias": self.bias,
        }
        node = helper.make_node(
            "QLinearConv",
            ["x", *constants],
            ["y"],
            name="conv",
            group=self.groups,
            strides=self.strides,
            dilations=self.dilations,
            pads=self.pads,
        )
        kind = helper.np_dtype_to_tensor_dtype(self.x.dtype)
        height, width = self.output_size
        graph = helper.make_graph(
            [node],
            "conv",
            [helper.make_tensor_value_info("x", kind, self.x.shape)],
            [helper.make_tensor_value_info("y", kind, (len(self.x), len(self.w), height, width))],
            [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
        )
        opset = helper.make_opsetid("", _OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)


def weight_rows(w: NDArray[np.integer]) -> NDArray[np.int64]:
    """Weights [M, C, kernel...] as int64 [M, taps], the taps as channels-last kernels read them."""
    return np.moveaxis(w.astype(np.int64), 1, -1).reshape(len(w), -1)
