from __future__ import annotations

import numpy as np
import pytest

from edgekit.export.weight_grid import find_grid


def on_grid(levels: int, channels: int = 6, inputs: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """float32 weights [channels, inputs, 1, 1] whose codes reach `levels`, and their scales."""
    rng = np.random.default_rng(levels)
    codes = rng.integers(-levels, levels + 1, (channels, inputs))
    codes[:, 0], codes[:, 1] = levels, levels - 1
    scales = rng.uniform(1e-3, 1e-1, channels)
    weights = (codes * scales[:, None]).astype(np.float32)
    return weights.reshape(channels, inputs, 1, 1), scales


@pytest.mark.parametrize("levels", [1, 3, 7, 31, 127])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_grid_is_found_and_holds_every_weight(levels: int, axis: int) -> None:
    weights, scales = on_grid(levels)
    grid = find_grid(np.moveaxis(weights, 0, axis), axis)
    assert grid is not None
    assert grid.axis == axis
    assert grid.levels.tolist() == [levels] * 6
    np.testing.assert_allclose(grid.scales, scales, rtol=1e-6)
    codes = weights.reshape(6, -1) / grid.scales[:, None]
    np.testing.assert_allclose(codes, codes.round(), atol=1e-4)


def test_a_factor_for_each_channel_keeps_the_grid_and_one_for_each_input_does_not() -> None:
    weights, scales = on_grid(7)
    factors = np.float32([0.3, 1.7, -2.1, 1e-3, 11.0, 0.9])
    grid = find_grid(weights * factors[:, None, None, None], 0)
    assert grid is not None
    np.testing.assert_allclose(grid.scales, scales * np.abs(factors), rtol=1e-6)
    mixed = weights * np.random.default_rng(0).uniform(0.5, 2, (1, 40, 1, 1)).astype(np.float32)
    assert find_grid(mixed, 0) is None


def test_ordinary_weights_and_zeros_lie_on_no_grid() -> None:
    rng = np.random.default_rng(0)
    assert find_grid(rng.standard_normal((8, 9)).astype(np.float32), 0) is None
    assert find_grid(np.zeros((3, 4), np.float32), 0) is None
    assert find_grid(np.zeros((3, 0), np.float32), 0) is None


def test_few_weights_lie_on_a_grid_by_chance_unless_others_do() -> None:
    rng = np.random.default_rng(0)
    depthwise = rng.standard_normal((16, 1, 1, 1)).astype(np.float32)
    assert find_grid(depthwise, 0) is None
    pruned = rng.standard_normal((16, 30)).astype(np.float32)
    pruned[3, 1:], pruned[5, 2:], pruned[7] = 0, 0, 0
    assert find_grid(pruned, 0) is None
    trained = on_grid(7, channels=4)[0]
    trained[1, 1:], trained[2, 2:] = 0, 0
    grid = find_grid(trained, 0)
    assert grid is not None
    assert grid.levels.tolist() == [7, 1, 7, 7]


def test_channels_are_looked_at_one_by_one() -> None:
    weights, scales = on_grid(7, channels=4)
    weights[1] = np.random.default_rng(0).standard_normal(weights[1].shape)
    weights[2] = 0
    grid = find_grid(weights, 0)
    assert grid is not None
    assert grid.levels.tolist() == [7, 0, 0, 7]
    np.testing.assert_allclose(grid.scales[[0, 3]], scales[[0, 3]], rtol=1e-6)
    np.testing.assert_allclose(grid.scales[1], np.abs(weights[1]).max() / 127, rtol=1e-6)
    assert grid.scales[2] == grid.scales[[0, 1, 3]].min()


def test_codes_beyond_the_largest_are_no_grid() -> None:
    weights, _ = on_grid(100)
    assert find_grid(weights, 0) is not None
    assert find_grid(weights, 0, largest=63) is None
    weights[0, 5] += weights[0, 0] * np.float32(0.004)
    grid = find_grid(weights, 0)
    assert grid is not None
    assert grid.levels[0] == 0
