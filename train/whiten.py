"""A first convolution that whitens its patches, so that training need not learn to.

Its filters are the directions in which the patches of the training images vary most, each scaled to
variance one, and the same with the other sign (Coates and Ng 2012, "Learning feature
representations with k-means"; as a frozen first layer: Jordan 2024, arXiv:2404.00498).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.runtime.data.source import Split, batches
from edgekit.runtime.errors import RecipeError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.augment import Normalize

_IMAGES = 2_000
_AT_ONCE = 50  # images, whose patches take as many times their memory as the kernel has pixels
# Added to the variances, lest the noise of the weakest directions become as loud as the rest.
_FLOOR = 5e-4


def whiten_first_convolution(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Set the weight of the first convolution, and freeze it.

    Args:
        network: Its first convolution has C input channels, and as many output channels as there
            are directions, both ways, or fewer.
        images: Batches float [B, C, H, W], as the network takes them.

    Raises:
        RecipeError: it has more output channels than that.
    """
    convolution = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    channels, size = convolution.out_channels, convolution.weight[0].numel()
    if channels > 2 * size:
        raise RecipeError(
            f"train.whiten: the first convolution has {channels} channels, but its patches of "
            f"{size} values make at most {2 * size}; make it narrower or its kernel larger"
        )
    variances, directions = torch.linalg.eigh(_covariance(convolution, images))
    half = -(-channels // 2)
    filters = (directions / (variances + _FLOOR).sqrt()).T.flip(0)[:half]
    filters = torch.cat([filters, -filters])[:channels]
    with torch.no_grad():
        convolution.weight.copy_(filters.view_as(convolution.weight))
    convolution.weight.requires_grad_(False)


def _covariance(convolution: nn.Conv2d, images: Iterable[Tensor]) -> Tensor:
    """Of the values in the patches that the convolution reads: float64 [size, size]."""
    size = convolution.weight[0].numel()
    count, total, products = 0, torch.zeros(size).double(), torch.zeros(size, size).double()
    for batch in images:
        patches = functional.unfold(
            batch,
            convolution.kernel_size,
            convolution.dilation,
            convolution.padding,
            convolution.stride,
        )
        rows = patches.transpose(1, 2).flatten(0, 1).double()
        count += len(rows)
        total += rows.sum(0)
        products += rows.T @ rows
    mean = total / count
    return products / count - torch.outer(mean, mean)


def images_for_whitening(split: Split, preprocessing: Preprocessing) -> Iterator[Tensor]:
    """At most 2,000 images, evenly spaced, in batches float [B, C, H, W] for a network."""
    normalize = Normalize(preprocessing)
    indices = np.linspace(0, len(split) - 1, min(_IMAGES, len(split))).astype(np.int64)
    for pixels, _ in batches(split, _AT_ONCE, indices):
        yield normalize(torch.from_numpy(pixels))
