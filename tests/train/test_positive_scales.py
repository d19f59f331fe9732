from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.runtime.errors import RecipeError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgekit.train.ema import WeightAverage
from edgekit.train.models.layers import PositiveBatchNorm2d
from edgekit.train.models.table import build_model
from edgekit.train.prune_channels import prune_channels

OPTIONS: dict[str, Any] = {"blocks": [2, 2], "growth": 8, "positive_scales": True}


def build(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model("densenet", {**OPTIONS, **options}, in_channels=1, num_classes=3)


def norms(module: nn.Module) -> list[PositiveBatchNorm2d]:
    return [part for part in module.modules() if isinstance(part, PositiveBatchNorm2d)]


def flip_some(module: nn.Module) -> None:
    """Let training seem to have driven every third weight below zero."""
    for norm in norms(module):
        norm.weight.data[::3] *= -1


def outputs(module: nn.Module) -> Tensor:
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        result: Tensor = module.eval()(images)
    return result


def test_it_normalizes_as_torch_does_with_the_absolute_weights() -> None:
    torch.manual_seed(0)
    positive, plain = PositiveBatchNorm2d(5), nn.BatchNorm2d(5)
    nn.init.normal_(positive.weight)
    plain.load_state_dict(positive.state_dict())
    plain.weight.data.abs_()
    images = torch.randn(8, 5, 4, 4)
    for _ in range(3):
        torch.testing.assert_close(positive(images), plain(images), rtol=0, atol=0)
    torch.testing.assert_close(positive.state_dict()["running_var"], plain.running_var)
    assert positive.num_batches_tracked == plain.num_batches_tracked == 3
    positive.eval(), plain.eval()
    torch.testing.assert_close(positive(images), plain(images), rtol=0, atol=0)


def test_gradients_keep_their_size_where_the_weight_is_negative() -> None:
    torch.manual_seed(0)
    norm = PositiveBatchNorm2d(4)
    norm.weight.data = torch.tensor([0.5, -0.5, 1e-6, -1e-6])
    images = torch.randn(8, 1, 4, 4).expand(8, 4, 4, 4)
    (norm(images) * torch.randn(8, 1, 4, 4)).sum().backward()
    assert norm.weight.grad is not None
    size = norm.weight.grad[0]
    torch.testing.assert_close(norm.weight.grad, size * torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert size != 0


def test_only_normalizations_before_a_relu_without_convolution_between_are_positive() -> None:
    module = build()
    plain = build(positive_scales=False)
    assert not norms(plain)
    assert module.state_dict().keys() == plain.state_dict().keys()
    names = {name for name, part in module.named_modules() if isinstance(part, PositiveBatchNorm2d)}
    assert "final.norm" in names
    assert "stem.norm" not in names
    assert len(names) == 2 * 4 + 1 + 1


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_a_checkpoint_comes_back_pruned_or_not(ratio: float, tmp_path: Path) -> None:
    module = build()
    if ratio:
        prune_channels(module, torch.zeros(1, 1, 16, 16), ratio=ratio)
    module.train()(torch.randn(8, 1, 16, 16))
    flip_some(module)
    preprocessing = Preprocessing(16, 16, (0.5,), (0.25,), ("a", "b", "c"))
    save_checkpoint(
        Checkpoint("densenet", OPTIONS, 1, 3, preprocessing, "digits", "", module.state_dict()),
        tmp_path / "m.safetensors",
    )
    back = load_checkpoint(tmp_path / "m.safetensors").build()
    assert len(norms(back)) == len(norms(module))
    torch.testing.assert_close(outputs(back), outputs(module), rtol=0, atol=0)


def test_an_average_of_weights_works_as_for_plain_normalization() -> None:
    module = build()
    average = WeightAverage(module, 0.9)
    flip_some(module)
    before = outputs(module)
    average.swap(module)
    average.swap(module)
    torch.testing.assert_close(outputs(module), before, rtol=0, atol=0)


def test_the_option_is_refused_where_it_would_do_nothing() -> None:
    with pytest.raises(RecipeError, match='positive_scales is for order "pre"'):
        build(order="post")
