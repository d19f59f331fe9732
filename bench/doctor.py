"""Whether the installed onnxruntime convolves codes exactly on this processor.

Random quantized convolutions run in onnxruntime and in exact integers (exact_integer.py). Shapes
are drawn so that each of its kernels gets its share; half of the codes are extreme, so that sums of
pairs overflow 16 bits wherever a kernel adds in 16 bits (saturation.py). Results may differ by one
step, from rounding; more names a kernel that is not exact.

The kernels of its CPU provider, which x86 and ARM alike choose by shape (onnxruntime,
core/mlas/lib/convsym.cpp and core/providers/cpu/quantization/qlinearconv.cc):

| kernel | what for |
|---|---|
| direct | int8 weights, one group, input channels a multiple of 4, at least 16 output channels |
| depthwise | one input and one output channel in each group |
| matrix | all else, as products of matrices |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.exact_integer import QuantizedConv
from edgekit.bench.int8_kernels import int8_kernels
from edgekit.runtime.progress import Progress
from edgekit.runtime.session import open_session

TOLERANCE = 1  # steps, from rounding in float32

# Types of activations and weights, as onnxruntime's QLinearConv takes them.
SIGNS: dict[str, tuple[type[np.integer], type[np.integer]]] = {
    "U8S8": (np.uint8, np.int8),
    "U8U8": (np.uint8, np.uint8),
    "S8S8": (np.int8, np.int8),
}
KERNELS = ("direct", "depthwise", "matrix")


@dataclass(frozen=True)
class KernelPath:
    """Convolutions that one kernel computes.

    Attributes:
        signs: A key of `SIGNS`.
        kernel: One of `KERNELS`.
    """

    signs: str
    kernel: str

    def __str__(self) -> str:
        return f"{self.signs} {self.kernel}"


@dataclass(frozen=True)
class PathResult:
    """What became of one kernel's convolutions.

    Attributes:
        path: The kernel.
        convolutions: How many were run.
        inexact: How many were off by more than a step.
        largest_error: Largest difference of an output code in steps.
        exact_mode_error: The same of the inexact ones in the session's exact mode; None where all
            were exact.
        example: Shape of the worst, empty where all were exact.
    """

    path: KernelPath
    convolutions: int
    inexact: int
    largest_error: int
    exact_mode_error: int | None
    example: str


@dataclass
class _Tally:
    errors: list[int] = field(default_factory=list)
    exact_mode: list[int] = field(default_factory=list)
    worst: tuple[int, str] = (0, "")

    def result(self, path: KernelPath) -> PathResult:
        inexact = sum(error > TOLERANCE for error in self.errors)
        mended = max(self.exact_mode) if self.exact_mode else None
        return PathResult(path, len(self.errors), inexact, max(self.errors), mended, self.worst[1])


def check_convolutions(
    convolutions: Sequence[QuantizedConv], progress: Progress | None = None
) -> tuple[PathResult, ...]:
    """Run convolutions in onnxruntime and compare them with exact ones.

    Args:
        convolutions: What to run.
        progress: Called with convolutions done and their total.

    Returns:
        One entry for each kernel path that was run, in the order of `SIGNS` and `KERNELS`.
    """
    tallies: dict[KernelPath, _Tally] = {}
    for index, conv in enumerate(convolutions):
        tally = tallies.setdefault(kernel_path(conv), _Tally())
        error = largest_error(conv)
        tally.errors.append(error)
        if error > TOLERANCE:
            tally.exact_mode.append(largest_error(conv, exact_mode=True))
            tally.worst = max(tally.worst, (error, describe(conv)))
        if progress is not None:
            progress(index + 1, len(convolutions))
    return tuple(tallies[path].result(path) for path in sorted(tallies, key=_place))


def draw_convolutions(count: int, seed: int) -> list[QuantizedConv]:
    """Random convolutions, in turns for each kernel and each pair of types."""
    generator = np.random.default_rng(seed)
    turns = [KernelPath(signs, kernel) for kernel in KERNELS for signs in SIGNS]
    return [draw_convolution(generator, turns[index % len(turns)]) for index in range(count)]


def largest_error(conv: QuantizedConv, *, exact_mode: bool = False) -> int:
    """Largest difference between onnxruntime's output codes and the exact ones, in steps."""
    session = open_session(conv.to_onnx(), exact_integers=exact_mode)
    (found,) = session.run(None, {"x": conv.x})
    difference = np.abs(np.asarray(found, np.int64) - conv.expected().astype(np.int64))
    return int(difference.max(initial=0))


def overflows_here() -> bool:
    """Whether onnxruntime clips sums of uint8 by int8 on this processor: two tiny convolutions."""
    return any(largest_error(_full_scale(*shape)) > TOLERANCE for shape in ((16, 16), (3, 5)))


def _full_scale(inputs: int, outputs: int) -> QuantizedConv:
    """A convolution of the largest codes, whose exact outputs are 200."""
    return QuantizedConv(
        x=np.full((1, inputs, 2, 2), 255, np.uint8),
        w=np.full((outputs, inputs, 1, 1), 127, np.int8),
        bias=np.zeros(outputs, np.int32),
        x_scale=1.0,
        w_scale=np.ones(1, np.float32),
        y_scale=inputs * 255 * 127 / 200,
        x_zero=0,
        w_zero=0,
        y_zero=0,
    )


def machine_target(isa: Iterable[str]) -> str:
    """What to quantize for on this machine: by its instruction sets, and by trying it out."""
    kernels = int8_kernels(isa)
    overflows = kernels.target != "arm64" and overflows_here()
    return "avx2" if overflows else kernels.target


def kernel_path(conv: QuantizedConv) -> KernelPath:
    """The kernel that computes a convolution."""
    types = (conv.x.dtype, conv.w.dtype)
    signs = next(name for name, pair in SIGNS.items() if types == tuple(map(np.dtype, pair)))
    if conv.is_depthwise:
        return KernelPath(signs, "depthwise")
    outputs, inputs = conv.w.shape[:2]
    direct = conv.groups == 1 and inputs % 4 == 0 and outputs >= 16 and outputs % 8 == 0
    symmetric = conv.w.dtype == np.int8 and conv.w_zero == 0
    return KernelPath(signs, "direct" if direct and symmetric else "matrix")


def describe(conv: QuantizedConv) -> str:
    """Shapes in a few words."""
    outputs, inputs, *kernel = conv.w.shape
    size = "x".join(map(str, kernel))
    steps = "per channel" if conv.w_scale.size > 1 else "per tensor"
    groups = f", {conv.groups} groups" if conv.groups > 1 else ""
    return (
        f"{size} convolution of {inputs * conv.groups} to {outputs} channels{groups}, strides "
        f"{conv.strides[0]}x{conv.strides[1]}, weights {steps}"
    )


def draw_convolution(generator: np.random.Generator, wanted: KernelPath) -> QuantizedConv:
    """A random convolution for a kernel; where uint8 weights rule `direct` out, its shape."""
    x_type, w_type = SIGNS[wanted.signs]
    groups, inputs, outputs = _channels(generator, wanted.kernel)
    kernel = generator.choice(((1, 1), (3, 3), (3, 3), (5, 5), (1, 3), (2, 3)))
    strides, dilations = generator.integers(1, 3, (2, 2))
    pads = generator.integers(0, 1 + kernel.max() // 2, 4)
    smallest = np.maximum((kernel - 1) * dilations + 1, 3)
    height, width = smallest + generator.integers(0, 6, 2)
    extreme = bool(generator.integers(2))
    x = _codes(generator, x_type, (int(generator.integers(1, 3)), groups * inputs, height, width))
    w = _codes(generator, w_type, (groups * outputs, inputs, *kernel))
    if extreme:
        x, w = _extreme(generator, x), _extreme(generator, w)
    symmetric = w_type is np.int8
    x_zero, y_zero = (int(_codes(generator, x_type, ())) for _ in range(2))
    steps = len(w) if generator.integers(2) else 1
    conv = QuantizedConv(
        x=x,
        w=np.maximum(w, -127) if symmetric else w,
        bias=generator.integers(-5_000, 5_000, len(w), dtype=np.int32),
        x_scale=float(np.float32(generator.uniform(0.001, 0.1))),
        w_scale=generator.uniform(0.001, 0.1, steps).astype(np.float32),
        y_scale=1.0,
        x_zero=x_zero,
        w_zero=0 if symmetric else 128,
        y_zero=y_zero,
        strides=(int(strides[0]), int(strides[1])),
        dilations=(int(dilations[0]), int(dilations[1])),
        pads=(int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3])),
        groups=groups,
    )
    return _with_output_scale(conv)


def _channels(generator: np.random.Generator, kernel: str) -> tuple[int, int, int]:
    """Groups, and channels of each group in and out."""
    if kernel == "depthwise":
        return int(generator.choice((2, 8, 16, 17, 32))), 1, 1
    if kernel == "direct":
        return 1, 4 * int(generator.integers(1, 9)), 8 * int(generator.integers(2, 6))
    groups = int(generator.choice((1, 1, 2, 3)))
    inputs, outputs = generator.integers(2, 20, 2)
    return groups, int(inputs), int(outputs)


def _codes(
    generator: np.random.Generator, dtype: type[np.integer], shape: tuple[int, ...]
) -> NDArray[np.integer]:
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def _extreme(generator: np.random.Generator, codes: NDArray[np.integer]) -> NDArray[np.integer]:
    """Three of four codes at the ends of their range, the same end over whole rows of channels."""
    limits = np.iinfo(codes.dtype)
    end = generator.integers(2, size=(len(codes), 1, *codes.shape[2:]))
    ends = np.where(end == 1, limits.max, limits.min).astype(codes.dtype)
    return np.where(generator.random(codes.shape) < 0.75, ends, codes)


def _with_output_scale(conv: QuantizedConv) -> QuantizedConv:
    """The same with an output scale that spreads its outputs over the codes."""
    steps = conv.x_scale * conv.w_scale.astype(np.float64).reshape(-1, 1, 1)
    spread = float(np.std(conv.accumulate() * steps))
    return replace(conv, y_scale=float(np.float32(max(spread, 1e-3) / 50)))


def _place(path: KernelPath) -> tuple[int, int]:
    return list(SIGNS).index(path.signs), KERNELS.index(path.kernel)
