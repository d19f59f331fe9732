from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.augment import (
    Augmentation,
    Normalize,
    color_jitter,
    crop_and_flip,
    cutout,
    resize,
    rotate,
)
from edgekit.train.recipe_tables import AugmentRecipe
from edgekit.train.vision import torchvision

functional = torchvision.transforms.v2.functional

COLOR = Preprocessing(6, 8, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def pixels(count: int = 64, height: int = 6, width: int = 8, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, height, width, channels)
    return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)


def crops(image: Tensor, padding: int, flip: bool) -> list[Tensor]:
    """Every image that crop and flip may make of one."""
    height, width, _ = image.shape
    padded = torch.nn.functional.pad(image, (0, 0, *[padding] * 4))
    steps = range(2 * padding + 1)
    found = [padded[y : y + height, x : x + width] for y in steps for x in steps]
    return found + ([crop.flip(1) for crop in found] if flip else [])


@pytest.mark.parametrize(("padding", "flip"), [(2, False), (0, True), (1, True)])
def test_each_sample_is_cropped_and_flipped_by_a_draw_of_its_own(padding: int, flip: bool) -> None:
    torch.manual_seed(1)
    images = pixels(400)
    seen = set()
    for image, result in zip(images, crop_and_flip(images, padding, flip), strict=True):
        matches = [torch.equal(result, crop) for crop in crops(image, padding, flip)]
        assert matches.count(True) == 1
        seen.add(matches.index(True))
    assert len(seen) == (2 * padding + 1) ** 2 * (1 + flip)


def test_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(1)
    images = pixels(1000)
    mirrored = (crop_and_flip(images, 0, True) == images.flip(2)).flatten(1).all(1)
    assert 440 < int(mirrored.sum()) < 560


def test_rotation_is_torchvisions_with_an_angle_for_each_sample() -> None:
    images = pixels(8, height=9, width=13).permute(0, 3, 1, 2).float()
    torch.manual_seed(3)
    angles = (torch.rand(8) * 2 - 1) * 30
    assert len(set(angles.tolist())) == 8
    torch.manual_seed(3)
    for image, angle, result in zip(images, angles.tolist(), rotate(images, 30), strict=True):
        bilinear = functional.InterpolationMode.BILINEAR
        expected = functional.rotate(image, angle, interpolation=bilinear)
        opposite = functional.rotate(image, -angle, interpolation=bilinear)
        inside = (slice(None), slice(3, -3), slice(3, -3))
        torch.testing.assert_close(result[inside], expected[inside], atol=0.05, rtol=0)
        assert not torch.allclose(result[inside], opposite[inside], atol=0.05, rtol=0)


def test_no_rotation_changes_nothing() -> None:
    images = pixels(4).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(rotate(images, 0.0), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_is_torchvisions_with_factors_for_each_sample(channels: int) -> None:
    images = pixels(6, channels=channels).permute(0, 3, 1, 2).float() / 255
    torch.manual_seed(5)
    factors = 1 + (torch.rand(3, 6, 1, 1, 1) * 2 - 1) * 0.4
    torch.manual_seed(5)
    for index, result in enumerate(color_jitter(images, 0.4)):
        brightness, contrast, saturation = factors[:, index].flatten().tolist()
        expected = functional.adjust_brightness(images[index], brightness)
        expected = functional.adjust_contrast(expected, contrast)
        expected = functional.adjust_saturation(expected, saturation)
        torch.testing.assert_close(result, expected, atol=2e-3, rtol=0)
        assert not torch.allclose(result, images[index], atol=2e-3, rtol=0)


def test_cutout_blanks_one_square_of_each_image() -> None:
    torch.manual_seed(0)
    holes = cutout(torch.ones(2000, 2, 10, 12), 4) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    areas = holes[:, 0].sum((1, 2))
    assert int(areas.max()) == 16
    assert int(areas.min()) == 4  # a corner keeps a quarter of the square inside
    assert len({tuple(hole.flatten().tolist()) for hole in holes[:, 0]}) == 120
    for hole in holes[:, 0]:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None, :])


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalizing_is_the_preprocessing_of_every_other_step(channels_last: bool) -> None:
    images = pixels(5)
    result = Normalize(COLOR, channels_last=channels_last)(images)
    expected = torch.from_numpy(COLOR(images.numpy()))
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=0)
    wrong = Preprocessing(6, 8, (0.4, 0.5, 0.6001), COLOR.std)
    assert not np.allclose(result.numpy(), wrong(images.numpy()), atol=2e-6, rtol=0)
    form = torch.channels_last if channels_last else torch.contiguous_format
    assert result.is_contiguous(memory_format=form)


def augmented(recipe: AugmentRecipe, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    images, labels = pixels(32), torch.arange(32) % 10
    torch.manual_seed(seed)
    results, targets = Augmentation(recipe, Normalize(COLOR), 10)(images, labels)
    return Normalize(COLOR)(images), results, targets


def test_nothing_asked_for_is_only_normalized() -> None:
    plain, results, targets = augmented(AugmentRecipe())
    assert torch.equal(results, plain)
    assert torch.equal(targets, torch.arange(32) % 10)


def test_mixup_blends_images_and_labels_by_the_same_share() -> None:
    plain, results, targets = augmented(AugmentRecipe(mixup=1.0))
    share = float(targets[0, 0])
    assert 0 < share < 1
    torch.testing.assert_close(results, share * plain + (1 - share) * plain.roll(1, 0))
    torch.testing.assert_close(targets.sum(1), torch.ones(32))


def test_cutmix_pastes_a_box_and_shares_the_label_by_its_area() -> None:
    plain, results, targets = augmented(AugmentRecipe(cutmix=1.0), seed=1)
    kept = (results == plain).all(1).float().mean((1, 2))
    assert 0 < float(kept[0]) < 1
    torch.testing.assert_close(targets[torch.arange(32), torch.arange(32) % 10], kept)
    assert torch.equal(results.where(results == plain, plain.roll(1, 0)), results)


def test_with_both_each_batch_gets_one_of_them() -> None:
    recipe = AugmentRecipe(mixup=1.0, cutmix=1.0)
    blended = set()
    for seed in range(12):
        plain, results, _ = augmented(recipe, seed)
        pasted = ((results == plain) | (results == plain.roll(1, 0))).all()
        blended.add(not bool(pasted))
    assert blended == {True, False}


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    recipe = AugmentRecipe(
        crop=1, flip=True, rotation=5, color_jitter=0.1, cutout=2, mixup=0.3, cutmix=1.0
    )
    _, first, first_targets = augmented(recipe, 4)
    _, again, again_targets = augmented(recipe, 4)
    _, other, _ = augmented(recipe, 5)
    assert torch.equal(first, again)
    assert torch.equal(first_targets, again_targets)
    assert not torch.equal(first, other)
    assert math.isfinite(float(first.sum()))


def test_resizing_keeps_the_form_and_averages_what_it_shrinks() -> None:
    checks = torch.zeros(1, 1, 8, 16)
    checks[..., ::2, :] = 1
    small = resize(checks, 2)
    assert small.shape == (1, 1, 2, 4)
    assert float(small.min()) > 0.4
    assert float(small.max()) < 0.6
    nearest = torch.nn.functional.interpolate(checks, (2, 4), mode="nearest")
    assert not torch.allclose(small, nearest, atol=0.1)
    assert resize(checks, 8) is checks
    assert resize(checks, None) is checks
