from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.runtime.data.load import load_split
from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import RecipeError
from edgekit.train.batches import measure_preprocessing
from edgekit.train.checkpoint import load_checkpoint
from edgekit.train.recipe import parse_recipe
from edgekit.train.run import run_recipe
from edgekit.train.whiten import images_for_whitening, whiten_first_convolution

RECIPE = """
name = "whitened"
[data]
name = "digits"
validation = 0.2
[model]
name = "vgg"
stages = [[8], [8]]
[train]
epochs = 2
batch_size = 64
whiten = true
"""


def digits() -> list[torch.Tensor]:
    split = load_split("digits", "train", validation=0.2)
    return list(images_for_whitening(split, measure_preprocessing(split)))


def test_what_the_filters_give_is_uncorrelated_and_of_variance_one() -> None:
    convolution = nn.Conv2d(1, 8, 3, bias=False)
    images = digits()
    whiten_first_convolution(nn.Sequential(convolution), images)
    with torch.no_grad():
        responses = convolution(torch.cat(images))
    covariance = torch.cov(responses[:, :4].transpose(0, 1).flatten(1))
    torch.testing.assert_close(covariance, torch.eye(4), atol=0.02, rtol=0)
    torch.testing.assert_close(responses[:, 4:], -responses[:, :4])
    assert not convolution.weight.requires_grad


def test_the_directions_of_most_variance_come_first() -> None:
    images = digits()
    first, all_of_them = (nn.Conv2d(1, channels, 3, bias=False) for channels in (2, 18))
    for convolution in (first, all_of_them):
        whiten_first_convolution(nn.Sequential(convolution), images)
    # The larger its variance, the less a direction is scaled up.
    norms = all_of_them.weight.detach().flatten(1).norm(dim=1)[:9]
    assert norms.tolist() == sorted(norms.tolist())
    torch.testing.assert_close(first.weight[0], all_of_them.weight[0])


def test_a_convolution_with_more_channels_than_directions_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"19 channels, .* 9 values make at most 18"):
        whiten_first_convolution(nn.Sequential(nn.Conv2d(1, 19, 3)), digits())


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (9, 4)])
def test_any_kernel_will_do(kernel: int, padding: int) -> None:
    convolution = nn.Conv2d(1, 2, kernel, padding=padding)
    whiten_first_convolution(nn.Sequential(convolution), digits())
    torch.testing.assert_close(convolution.weight[0], -convolution.weight[1])


def test_the_images_are_spread_over_all_of_them() -> None:
    pixels = np.zeros((3999, 8, 8, 1), np.uint8)
    pixels[2000:] = 255
    labels = np.repeat([0, 1], [2000, 1999])
    split = Split("halves", "train", ArrayImages(pixels), labels, ("dark", "light"))
    seen = torch.cat(list(images_for_whitening(split, measure_preprocessing(split))))
    assert len(seen) == 2000
    assert abs(float((seen > 0).float().mean()) - 0.5) < 0.01


def test_training_leaves_the_filters_as_they_are(tmp_path: Path) -> None:
    result = run_recipe(parse_recipe(RECIPE, origin="r.toml"), tmp_path / "run")
    expected = nn.Conv2d(1, 8, 3, padding=1, bias=False)
    whiten_first_convolution(nn.Sequential(expected), digits())
    state = load_checkpoint(result.checkpoint).state
    torch.testing.assert_close(state["stages.0.0.conv.weight"], expected.weight.detach())


def test_a_checkpoint_to_begin_from_is_not_whitened() -> None:
    text = RECIPE.replace("whiten = true", 'whiten = true\nstart = "other.safetensors"')
    with pytest.raises(RecipeError, match=r"train\.whiten: .* leave one out"):
        parse_recipe(text, origin="r.toml")
