from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.bench.doctor import (
    KERNELS,
    SIGNS,
    KernelPath,
    check_convolutions,
    draw_convolutions,
    kernel_path,
    largest_error,
    machine_target,
    overflows_here,
)
from edgekit.bench.exact_integer import QuantizedConv
from edgekit.bench.saturation import saturating_sums
from edgekit.runtime.session import open_session
from tests.processor import needs_exact_int8


class Saturating(QuantizedConv):
    """A convolution whose reference is wrong in the way that AVX2 is."""

    def accumulate(self) -> NDArray[np.int64]:
        return saturating_sums(self)


def loops(conv: QuantizedConv) -> NDArray[np.int64]:
    """The sums by definition, tap by tap."""
    height, width = conv.output_size
    outputs, inputs, rows, columns = conv.w.shape
    sums = np.zeros((len(conv.x), outputs, height, width), np.int64)
    each = outputs // conv.groups
    for n, m, y, x in np.ndindex(*sums.shape):
        total = int(conv.bias[m])
        for c, i, j in product(range(inputs), range(rows), range(columns)):
            down = y * conv.strides[0] + i * conv.dilations[0] - conv.pads[0]
            across = x * conv.strides[1] + j * conv.dilations[1] - conv.pads[1]
            if 0 <= down < conv.x.shape[2] and 0 <= across < conv.x.shape[3]:
                code = int(conv.x[n, m // each * inputs + c, down, across])
                total += (code - conv.x_zero) * (int(conv.w[m, c, i, j]) - conv.w_zero)
        sums[n, m, y, x] = total
    return sums


def small(conv: QuantizedConv) -> bool:
    return conv.w.size * np.prod(conv.output_size) < 20_000


def test_sums_are_those_of_the_definition() -> None:
    drawn = [conv for conv in draw_convolutions(90, seed=3) if small(conv)]
    assert {conv.groups > 1 for conv in drawn} == {True, False}
    assert {conv.strides for conv in drawn} >= {(1, 2), (2, 1)}
    for conv in drawn:
        np.testing.assert_array_equal(conv.accumulate(), loops(conv))


def test_a_shifted_window_gives_other_sums() -> None:
    conv = next(c for c in draw_convolutions(90, seed=3) if small(c) and sum(c.pads) > 1)
    top, left, bottom, right = conv.pads
    shifted = replace(conv, pads=(bottom, right, top, left))
    if shifted.pads == conv.pads:
        shifted = replace(conv, x_zero=conv.x_zero ^ 1)
    assert (shifted.accumulate() != loops(conv)).any()


def test_halves_are_rounded_to_even_and_codes_clipped() -> None:
    conv = QuantizedConv(
        x=np.zeros((1, 1, 1, 1), np.uint8),
        w=np.zeros((1, 1, 1, 1), np.int8),
        bias=np.zeros(1, np.int32),
        x_scale=0.5,
        w_scale=np.ones(1, np.float32),
        y_scale=1.0,
        x_zero=0,
        w_zero=0,
        y_zero=10,
    )
    sums = np.array([1, 3, 5, -1, -3, 1_000, -1_000]).reshape(1, 1, 1, -1)
    assert conv.requantize(sums).ravel().tolist() == [10, 12, 12, 10, 8, 255, 0]


def test_every_kernel_gets_its_share_and_is_near_the_exact_result() -> None:
    results = check_convolutions(draw_convolutions(90, seed=1))
    impossible = {KernelPath("U8U8", "direct")}
    wanted = {KernelPath(s, k) for s in SIGNS for k in KERNELS} - impossible
    assert {result.path for result in results} == wanted
    assert sum(result.convolutions for result in results) == 90
    for result in results:  # U8S8 overflows on x86 without VNNI
        assert result.inexact == 0 or result.path.signs == "U8S8"
        assert result.largest_error <= 1 or result.path.signs == "U8S8"


def test_the_same_seed_draws_the_same() -> None:
    first, second, other = (draw_convolutions(9, seed) for seed in (5, 5, 6))
    assert all(
        (a.x == b.x).all() and (a.w == b.w).all() for a, b in zip(first, second, strict=True)
    )
    assert any(a.x.shape != b.x.shape for a, b in zip(first, other, strict=True))


def test_extreme_codes_are_drawn_that_overflow_16_bits() -> None:
    drawn = [c for c in draw_convolutions(90, seed=1) if kernel_path(c).signs == "U8S8"]
    overflowing = [
        c for c in drawn if not c.is_depthwise and (saturating_sums(c) != c.accumulate()).any()
    ]
    assert {kernel_path(c).kernel for c in overflowing} == {"direct", "matrix"}


@needs_exact_int8
def test_a_wrong_result_is_found_and_its_kernel_named() -> None:
    drawn = [
        c for c in draw_convolutions(30, seed=2) if kernel_path(c) == KernelPath("U8S8", "matrix")
    ]
    wrong = [Saturating(**vars(conv)) for conv in drawn]
    (result,) = check_convolutions(wrong)
    assert result.path == KernelPath("U8S8", "matrix")
    assert result.inexact >= 1
    assert result.largest_error > 1
    assert "convolution" in result.example
    assert result.exact_mode_error is not None


def test_one_step_is_rounding_two_are_not() -> None:
    conv = next(c for c in draw_convolutions(9, seed=0) if kernel_path(c).signs == "U8U8")
    inner = (conv.expected() > 5) & (conv.expected() < 250)
    assert inner.any()
    exact = largest_error(conv)
    assert exact <= 1
    assert abs(largest_error(Shifted(**vars(conv))) - 2) <= exact
    (result,) = check_convolutions([Shifted(**vars(conv))])
    assert result.inexact == 1


class Shifted(QuantizedConv):
    """A convolution whose reference is two steps too high."""

    def expected(self) -> NDArray[np.integer]:
        codes = super().expected().astype(np.int64) + 2
        return np.clip(codes, 0, 255).astype(self.x.dtype)


@pytest.mark.parametrize("exact_mode", [False, True])
def test_the_exact_mode_is_accepted_by_the_session(exact_mode: bool) -> None:
    conv = draw_convolutions(1, seed=0)[0]
    session = open_session(conv.to_onnx(), exact_integers=exact_mode)
    assert session.run(None, {"x": conv.x})[0].shape == (
        len(conv.x),
        len(conv.w),
        *conv.output_size,
    )


def test_the_target_is_measured_besides() -> None:
    overflows = overflows_here()
    assert machine_target(("avx2", "avx512bw", "avx512_vnni")) == (
        "avx2" if overflows else "avx512-vnni"
    )
    assert machine_target(("avx2",)) == "avx2"
    assert machine_target(("neon",)) == "arm64"
    drawn = [c for c in draw_convolutions(90, seed=1) if kernel_path(c).signs == "U8S8"]
    assert overflows == any(result.inexact for result in check_convolutions(drawn))
