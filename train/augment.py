"""Augmentation of whole batches on the training device, with a draw of its own for each sample.

torchvision's v2 transforms draw one parameter for all of a batch, so those that must differ from
sample to sample are written here as one gather, one grid or one mask over the batch; Mixup and
CutMix work on batches by nature and are torchvision's. All draws come from torch's generators.
"""

from __future__ import annotations

import math

import edgekit.train.vision  # noqa: F401 (makes torchvision importable)

# isort: split
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor
from torchvision.transforms import v2

from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.recipe_tables import AugmentRecipe

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def crop_and_flip(images: Tensor, padding: int, flip: bool) -> Tensor:
    """Shift each image by up to `padding` pixels, black moving in, and mirror half of them.

    Args:
        images: [B, H, W, C], any type.
        padding: Largest shift in pixels, in both directions.
        flip: Whether to mirror.
    """
    count, height, width, _ = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if padding:
        images = F.pad(images, (0, 0, padding, padding, padding, padding))
        rows = rows + torch.randint(2 * padding + 1, (count, 1), device=device)
        columns = columns + torch.randint(2 * padding + 1, (count, 1), device=device)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    samples = torch.arange(count, device=device)
    return images[samples[:, None, None], rows[:, :, None], columns[:, None, :]]


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Turn each image around its center by up to `degrees`, bilinear, black moving in.

    Args:
        images: float [B, C, H, W].
        degrees: Largest angle either way.
    """
    count, _, height, width = images.shape
    angle = (torch.rand(count, device=images.device) * 2 - 1) * math.radians(degrees)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Rows of the inverse map in normalized coordinates, where a side is 2 long whatever its pixels.
    theta = torch.stack(
        [
            torch.stack([cosine, -sine * height / width, zero], dim=1),
            torch.stack([sine * width / height, cosine, zero], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", align_corners=False)


def color_jitter(images: Tensor, strength: float) -> Tensor:
    """Change each image's brightness, contrast and (of color images) saturation, in this order.

    Args:
        images: float [B, C, H, W] in 0 to 1.
        strength: Each factor is drawn from 1 - strength to 1 + strength.
    """
    count, channels = images.shape[:2]
    draws = torch.rand(3, count, 1, 1, 1, device=images.device)
    brightness, contrast, saturation = 1 + (draws * 2 - 1) * strength
    images = (images * brightness).clamp(0, 1)
    mean = _gray(images).mean(dim=(1, 2, 3), keepdim=True)
    images = (mean + (images - mean) * contrast).clamp(0, 1)
    if channels == 3:
        gray = _gray(images)
        images = (gray + (images - gray) * saturation).clamp(0, 1)
    return images


def _gray(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return sum((w * images[:, i : i + 1] for i, w in enumerate(_LUMA)), torch.zeros(()).to(images))


def cutout(images: Tensor, size: int) -> Tensor:
    """Set a square of each image to zero, the mean color of normalized images.

    The square's center is any pixel, so part of it may lie outside (DeVries and Taylor 2017,
    arXiv:1708.04552).

    Args:
        images: float [B, C, H, W].
        size: Side of the square in pixels.
    """
    count, _, height, width = images.shape
    rows = _inside(height, size, count, images.device)
    columns = _inside(width, size, count, images.device)
    hole = rows[:, :, None] & columns[:, None, :]
    return images.masked_fill(hole[:, None], 0.0)


def _inside(length: int, size: int, count: int, device: torch.device) -> Tensor:
    """Which positions of an axis a random stretch covers: bool [count, length]."""
    start = torch.randint(length, (count, 1), device=device) - size // 2
    position = torch.arange(length, device=device)
    return (position >= start) & (position < start + size)


def resize(images: Tensor, side: int | None) -> Tensor:
    """Make images smaller, or larger, keeping their form: bilinear and antialiased.

    Args:
        images: float [B, C, H, W].
        side: Pixels of the shorter side afterwards; None leaves the images as they are.
    """
    height, width = images.shape[-2:]
    shorter = min(height, width)
    if side is None or side == shorter:
        return images
    size = (round(height * side / shorter), round(width * side / shorter))
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


class Normalize:
    """uint8 [B, H, W, C] to the network's float32 input [B, C, H, W].

    Args:
        preprocessing: Mean and standard deviation.
        channels_last: Whether the result keeps the channels last in memory.
    """

    def __init__(self, preprocessing: Preprocessing, *, channels_last: bool = False) -> None:
        self._mean = torch.tensor(preprocessing.mean)[:, None, None]
        self._std = torch.tensor(preprocessing.std)[:, None, None]
        # Said outright, since the strides of gray images fit either form.
        self._form = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        """Scale and normalize."""
        return self.normalize(self.scale(images))

    def scale(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, C] to float32 [B, C, H, W] in 0 to 1."""
        planes = images.permute(0, 3, 1, 2)
        return planes.to(torch.float32, memory_format=self._form).div_(255)

    def normalize(self, images: Tensor) -> Tensor:
        """Float [B, C, H, W] in 0 to 1 to mean 0 and standard deviation 1."""
        if self._mean.device != images.device:
            self._mean, self._std = self._mean.to(images.device), self._std.to(images.device)
        return (images - self._mean) / self._std


class Augmentation:
    """What happens to a training batch between the data and the network.

    Args:
        recipe: Which augmentations, how strong.
        normalize: From pixels to the network's input.
        num_classes: Length of the soft targets that Mixup and CutMix make.
    """

    def __init__(self, recipe: AugmentRecipe, normalize: Normalize, num_classes: int) -> None:
        self._recipe = recipe
        self._normalize = normalize
        mixers = [
            transform(alpha=alpha, num_classes=num_classes)
            for transform, alpha in ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
            if alpha
        ]
        self._mix = v2.RandomChoice(mixers) if mixers else None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: uint8 [B, H, W, C].
            labels: int64 [B].

        Returns:
            float32 [B, C, H, W] and labels, int64 [B] or, when mixed, float32 [B, classes].
        """
        recipe = self._recipe
        if recipe.crop or recipe.flip:
            images = crop_and_flip(images, recipe.crop, recipe.flip)
        images = self._normalize.scale(images)
        if recipe.rotation:
            images = rotate(images, recipe.rotation)
        if recipe.color_jitter:
            images = color_jitter(images, recipe.color_jitter)
        images = self._normalize.normalize(images)
        if recipe.cutout:
            images = cutout(images, recipe.cutout)
        if self._mix is not None:
            images, labels = self._mix(images, labels)
        return images, labels
