from __future__ import annotations

import copy

import torch
from torch import nn

from edgekit.train.ema import WeightAverage, decay_at


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def shake(module: nn.Module) -> None:
    module.train()
    module(torch.randn(8, 3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_the_average_is_what_the_formula_says() -> None:
    module = network()
    average = WeightAverage(module, 0.3)
    expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for step in range(5):
        shake(module)
        average.update(module, step)
        for name, tensor in module.state_dict().items():
            d = min(0.3, (1 + step) / (10 + step))
            if tensor.is_floating_point():
                expected[name] = d * expected[name] + (1 - d) * tensor
            else:
                expected[name] = tensor.clone()
    average.swap(module)
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    average.swap(module)
    assert not torch.allclose(module.state_dict()["0.weight"], expected["0.weight"])


def test_the_decay_grows_to_its_limit() -> None:
    assert decay_at(0, 0.99) == 0.1
    assert decay_at(10_000, 0.99) == 0.99


def test_statistics_are_averaged_and_counters_copied() -> None:
    module = network()
    average = WeightAverage(module, 0.5)
    shake(module)
    average.update(module, 1000)
    mean = module.state_dict()["1.running_mean"]
    average.swap(module)
    torch.testing.assert_close(module.state_dict()["1.running_mean"], mean.clone())
    assert int(module.state_dict()["1.num_batches_tracked"]) == 1


def test_swapping_twice_gives_back_every_bit() -> None:
    module = network()
    average = WeightAverage(module, 0.9)
    shake(module)
    average.update(module, 0)
    before = copy.deepcopy(module.state_dict())
    average.swap(module)
    assert not torch.equal(module.state_dict()["0.weight"], before["0.weight"])
    average.swap(module)
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)


def test_averages_survive_their_own_state() -> None:
    module = network()
    average = WeightAverage(module, 0.9)
    shake(module)
    average.update(module, 0)
    other = WeightAverage(network(), 0.9)
    other.load_state_dict(average.state_dict())
    for name, tensor in average.named_buffers():
        assert torch.equal(tensor, other.get_buffer(name))


def test_averages_follow_the_network_to_another_type() -> None:
    module = network()
    average = WeightAverage(module, 0.5)
    average.update(module, 0)
    both = nn.ModuleList([module, average]).double()
    shake_input = torch.randn(8, 3, dtype=torch.float64)
    module(shake_input)
    average.update(module, 1000)
    torch.testing.assert_close(
        average.get_buffer("1/running_mean"), module.state_dict()["1.running_mean"] * 0.5
    )
    assert next(both.buffers()).dtype is torch.float64


def test_masks_zero_averages() -> None:
    module = network()
    average = WeightAverage(module, 0.5)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    average.multiply({"0.weight": mask})
    assert torch.equal(average.get_buffer("0/weight") == 0, ~mask)
