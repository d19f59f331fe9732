from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.runtime.errors import RecipeError
from edgekit.train.checkpoint import load_checkpoint
from edgekit.train.fake_quantize import (
    InputQuantizer,
    QuantizedConv2d,
    WeightQuantizer,
    fake_quantize,
)
from edgekit.train.models.table import build_model
from edgekit.train.prune_weights import sparsity_of
from edgekit.train.quantization import Quantization, plain_state
from edgekit.train.recipe import parse_recipe
from edgekit.train.recipe_tables import QuantizeRecipe
from edgekit.train.run import run_recipe

RECIPE = """
name = "aware"
[data]
name = "digits"
validation = 0.2
[model]
name = "densenet"
order = "post"
blocks = [1]
growth = 8
bottleneck = 0
stem_width = 8
[train]
epochs = 4
batch_size = 64
learning_rate = 0.2
ema = 0.9
"""


def small_network() -> nn.Module:
    torch.manual_seed(0)
    options = {"blocks": [1], "growth": 4, "stem_width": 4, "bottleneck": 0, "order": "post"}
    return build_model("densenet", options, in_channels=1, num_classes=3)


def images(count: int = 16) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("learns", [False, True])
def test_weights_come_to_lie_on_a_symmetric_grid_of_each_channel(bits: int, learns: bool) -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[4] = 0
    weight *= torch.tensor([0.01, 1, 3, 10, 1])[:, None, None, None]
    quantizer = WeightQuantizer(weight, bits, learns=learns)
    assert quantizer(weight) is weight
    quantizer.quantizes = True
    quantizer.begin(weight)
    rounded = quantizer(weight).detach()
    largest = 2 ** (bits - 1) - 1
    for channel in range(4):
        peak = weight[channel].abs().max()
        scale = peak / largest if quantizer.scale is None else quantizer.scale[channel].detach()
        codes = rounded[channel] / scale
        torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
        assert codes.abs().max() <= largest + 1e-3
        assert len(codes.round().unique()) >= 2
    assert not rounded[4].any()
    assert not torch.equal(rounded, weight)


def test_learned_scales_begin_where_the_error_is_least() -> None:
    weight = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    quantizer = WeightQuantizer(weight, 2, learns=True)
    quantizer.quantizes = True
    quantizer.begin(weight)
    widest = WeightQuantizer(weight, 2, learns=False)
    widest.quantizes = True
    errors = [(q(weight) - weight).square().sum(1) for q in (quantizer, widest)]
    assert (errors[0] < 0.6 * errors[1]).all()


@pytest.mark.parametrize("learns", [False, True])
def test_gradients_pass_through_the_rounding(learns: bool) -> None:
    weight = torch.randn(4, 3, 1, 1, requires_grad=True)
    quantizer = WeightQuantizer(weight, 4, learns=learns)
    quantizer.begin(weight.detach())
    quantizer.quantizes = True
    quantizer(weight).square().sum().backward()
    assert weight.grad is not None
    assert (weight.grad != 0).sum() > 8
    if learns:
        assert quantizer.scale is not None
        assert quantizer.scale.grad is not None
        assert quantizer.scale.grad.any()


@pytest.mark.parametrize("zero_point", [0, 7])
def test_values_and_gradients_are_those_of_the_operator_of_torch(zero_point: int) -> None:
    values = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    found = []
    for own in (True, False):
        x, scale = values.clone().requires_grad_(), torch.tensor([0.13], requires_grad=True)
        made = (
            fake_quantize(x, scale, zero_point, 0, 15)
            if own
            else torch._fake_quantize_learnable_per_tensor_affine(
                x, scale, torch.tensor([float(zero_point)]), 0, 15
            )
        )
        (made * upstream).sum().backward()
        assert x.grad is not None
        assert (x.grad == 0).any()
        found.append((made, x.grad, scale.grad))
    torch.testing.assert_close(found[0], found[1])


def test_the_batch_norm_behind_a_layer_multiplies_its_grid() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([0.3, -2.0, 5.0, 1e-2])[:, None, None, None]
    quantizer = WeightQuantizer(weight, 4, learns=False)
    quantizer.quantizes = True
    torch.testing.assert_close(quantizer(weight * factors), quantizer(weight) * factors)
    by_input = torch.tensor([0.3, 2.0, 5.0])[:, None, None]
    assert not torch.allclose(quantizer(weight * by_input), quantizer(weight) * by_input, atol=1e-2)


def test_inputs_are_observed_then_rounded_over_their_range() -> None:
    quantizer = InputQuantizer(8, learns=False)
    quantizer.train()
    features = torch.rand(8, 4, 5, 5) * 3 - 1
    assert quantizer(features) is features
    low, high = (float(bound) for bound in (quantizer.low, quantizer.high))
    assert (low, high) == (float(features.min()), float(features.max()))
    quantizer.quantizes, quantizer.observes = True, False
    step = (high - low) / 255
    rounded = quantizer(features * 2)
    assert float((rounded - (features * 2).clamp(low, high)).abs().max()) <= 0.51 * step
    codes = rounded / step
    torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
    assert float(quantizer.high) == high
    quantizer.observes = True
    quantizer.eval()(features * 9)
    assert float(quantizer.high) == high


def test_a_network_observes_then_rounds_then_freezes_its_statistics() -> None:
    network = small_network().train()
    before = network(images())
    quantization = Quantization(network, QuantizeRecipe(weight_bits=3, begin=0.4, freeze=0.8), 5)
    convolution = network.get_submodule("stem.conv")
    norm = network.get_submodule("stem.norm")
    assert isinstance(convolution, QuantizedConv2d)
    quantization.set_epoch(0)
    assert not quantization.set_scales(0)
    torch.testing.assert_close(network(images()), before)
    quantization.set_epoch(2)
    assert "stem.conv.weights.scale" in quantization.set_scales(2)
    assert not torch.allclose(network(images()), before, atol=1e-3)
    assert norm.training
    quantization.set_epoch(4)
    mean = norm.get_buffer("running_mean").clone()
    network(images() * 3)
    assert torch.equal(norm.get_buffer("running_mean"), mean)
    assert convolution.training


def test_the_plain_state_is_the_network_with_rounded_weights() -> None:
    network, plain = small_network(), small_network()
    names = set(network.state_dict())
    quantization = Quantization(network, QuantizeRecipe(weight_bits=4), 2)
    network(images())
    quantization.set_epoch(1)
    quantization.set_scales(1)
    state = plain_state(network)
    assert set(state) == names
    plain.load_state_dict(state)
    for layer in network.modules():
        if isinstance(layer, QuantizedConv2d):
            layer.inputs.quantizes = False
    network.get_submodule("classifier").get_submodule("inputs").quantizes = False  # type: ignore[assignment]
    torch.testing.assert_close(plain.eval()(images()), network.eval()(images()))
    assert len(state["stem.conv.weight"][0].unique()) <= 15
    assert len(network.get_parameter("stem.conv.weight")[0].unique()) == 9
    assert torch.equal(plain_state(plain)["stem.conv.weight"], state["stem.conv.weight"])


@pytest.mark.parametrize("method", ["straight-through", "learned-step"])
def test_a_pruned_network_stays_sparse_and_comes_to_lie_on_the_grid(
    tmp_path: Path, method: str
) -> None:
    prune = "[prune]\nsparsity = 0.5\nevery_steps = 4\nend = 0.4\n"
    extra = f'{prune}[quantize]\nweight_bits = 4\nmethod = "{method}"\nbegin = 0.5\n'
    result = run_recipe(parse_recipe(RECIPE + extra, origin="r"), tmp_path, progress=False)
    network = load_checkpoint(result.checkpoint).build()
    assert sparsity_of(network) >= 0.5
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            assert all(len(channel.unique()) <= 15 for channel in layer.weight)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_channels_are_cut_before_the_fine_tuning_quantizes(tmp_path: Path) -> None:
    extra = "[prune_channels]\nratio = 0.3\nfine_tune_epochs = 2\n[quantize]\nweight_bits = 4\n"
    result = run_recipe(parse_recipe(RECIPE + extra, origin="r"), tmp_path, progress=False)
    trained = load_checkpoint(tmp_path / "trained.safetensors").state["stem.conv.weight"]
    tuned = load_checkpoint(result.checkpoint).state["stem.conv.weight"]
    assert len(tuned) < len(trained) == 8
    assert max(len(channel.unique()) for channel in trained) == 9
    assert len(torch.cat([(channel / channel.abs().max()).flatten() for channel in tuned])) > 15


def test_learned_steps_need_one_device(tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE + "[quantize]\n", origin="r")
    with pytest.raises(RecipeError, match=r"quantize\.method.*one device"):
        run_recipe(recipe, tmp_path / "run", devices=2, progress=False)
