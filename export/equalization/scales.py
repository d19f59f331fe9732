"""By how much to scale each channel: so that rounding leaves the least noise in what reads it.

Let a weight w[o, c] read a tensor x whose channel c reaches to e[c] and has the mean square q[c].
Divided by s[c] and quantized with one scale for the tensor and one for each row of the weight,

    step of the tensor      D    = max over c of e[c] / s[c] / 255
    step of row o           d[o] = max over c of |w[o, c]| s[c] / 127
    noise in output o       D^2 / 12 * sum_c w[o, c]^2 s[c]^2  +  d[o]^2 / 12 * sum_c q[c] / s[c]^2
    signal in output o      about sum_c w[o, c]^2 q[c]

This is what Nagel et al. (2019, arXiv:1906.04721, section 4.1) even out between two weights of one
scale each, stated for a tensor and a weight with a scale a row. The sum over all readers of the
mean of noise over signal is brought down by gradient descent on log s (Adam: Kingma and Ba 2015,
arXiv:1412.6980), with a p-norm for each maximum. What a tensor loses that no weight reads directly
counts for a tenth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.export.equalization.channels import HELD, Ids

_STEPS = 150
_RATE = 0.05
_DECAYS = (0.9, 0.99)
_NORM = 16  # a power of two
_TENSOR_STEPS, _WEIGHT_STEPS = 255.0, 127.0
_ROUNDING = 1 / 12  # variance of what rounding to whole steps adds
_UNREAD = 0.1
_TINY = 1e-30
# A channel that is hardly used on calibration data may be used more on others.
_LEAST_EXTENT, _LEAST_SQUARE = 1 / 64, 1e-8

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tensor:
    """A tensor that will be quantized.

    Attributes:
        ids: Of its channels [C].
        extents: The largest absolute value of each channel [C].
        squares: The mean square of each channel [C].
        readers: The weights that read it, each [G, O, C / G, taps]: group g reads the g-th part of
            the channels.
    """

    ids: Ids
    extents: Array
    squares: Array
    readers: tuple[Array, ...] = ()


def find_scales(count: int, tensors: Sequence[Tensor]) -> Array:
    """Find the scale of each id.

    Args:
        count: Number of ids.
        tensors: What will be quantized.

    Returns:
        Scales [count], above zero; 1 for `HELD`.
    """
    terms = [_Noise.of(tensor) for tensor in tensors]
    logs = best = np.zeros(count)
    mean, variance, least, floor = np.zeros(count), np.zeros(count), np.inf, _TINY
    for step in range(1, _STEPS + 1):
        gradient = np.zeros(count)
        total = sum(term.add_gradient(np.exp(logs), gradient) for term in terms)
        if step == 1:
            floor = max(1e-12 * total, _TINY)
        if total < least:
            least, best = total, logs
        gradient[HELD] = 0
        mean = _DECAYS[0] * mean + (1 - _DECAYS[0]) * gradient
        variance = _DECAYS[1] * variance + (1 - _DECAYS[1]) * gradient**2
        change = mean / (1 - _DECAYS[0] ** step)
        logs = logs - _RATE * change / (np.sqrt(variance / (1 - _DECAYS[1] ** step)) + floor)
    return np.exp(best)


@dataclass(frozen=True)
class _Weight:
    """What rounding a weight costs.

    Attributes:
        peaks: The largest value of each output and input channel [G, O, C / G].
        shares: How much the noise of each row counts [G, O].
    """

    peaks: Array
    shares: Array


@dataclass(frozen=True)
class _Noise:
    """The noise that comes of one tensor and its readers, as a function of the scales."""

    ids: Ids
    extents: Array
    squares: Array
    energies: Array
    weights: tuple[_Weight, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> _Noise:
        """Normalize a tensor, and see what its readers make of it."""
        top = max(float(tensor.extents.max()), _TINY)
        extents = np.maximum(tensor.extents / top, _LEAST_EXTENT)
        squares = np.maximum(tensor.squares / top**2, _LEAST_SQUARE)
        energies, weights = np.zeros(len(extents)), []
        if not tensor.readers:
            energies += _UNREAD / squares.sum()
        for reader in tensor.readers:
            groups, outputs, depth, taps = reader.shape
            strength = np.square(reader).sum(3)
            signal = np.maximum(strength @ squares.reshape(groups, depth, 1), _TINY)
            shares = 1 / signal[..., 0] / (groups * outputs)
            energies += (shares[:, None] @ strength).ravel()
            if depth > 1:  # a row of one channel rounds alike whatever the scale
                weights.append(_Weight(np.abs(reader).max(3), shares * taps))
        return cls(tensor.ids, extents, squares, energies, tuple(weights))

    def add_gradient(self, scales: Array, gradient: Array) -> float:
        """Add the noise's gradient by log s to `gradient` [count]; returns the noise."""
        own = scales[self.ids]
        step, part = _soft_square(self.extents / own, _TENSOR_STEPS)
        passed = (self.energies * own**2).sum()
        noise = float(step * passed)
        slope = 2 * step * (self.energies * own**2 - passed * part)
        for weight in self.weights:
            groups, _, depth = weight.peaks.shape
            steps, parts = _soft_square(weight.peaks * own.reshape(groups, 1, depth), _WEIGHT_STEPS)
            steps = steps * weight.shares
            spread = (self.squares / own**2).reshape(groups, depth)
            total = spread.sum(1, keepdims=True)
            noise += float((steps * total).sum())
            rows = (steps[:, None] @ parts)[:, 0]
            slope += 2 * (total * rows - steps.sum(1, keepdims=True) * spread).ravel()
        np.add.at(gradient, self.ids, slope)
        return noise


def _soft_square(values: Array, steps: float) -> tuple[Array, Array]:
    """Noise of a quantizer that reaches to the p-norm of each row [..., C], and its entries' parts.

    Returns:
        The noise [...], and what share each entry has in the p-norm [..., C].
    """
    largest = np.maximum(values.max(-1, keepdims=True), _TINY)
    powers = values / largest
    for _ in range(_NORM.bit_length() - 1):  # many times as fast as **
        powers *= powers
    total = np.maximum(powers.sum(-1, keepdims=True), _TINY)  # a row may be all zeros
    extent = (largest * total ** (1 / _NORM))[..., 0]
    powers /= total
    return _ROUNDING * (extent / steps) ** 2, powers
