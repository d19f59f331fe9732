from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.export.graph import from_proto, to_proto
from edgekit.export.parity import check_parity, compare_logits
from edgekit.export.to_onnx import to_onnx
from edgekit.runtime.data.load import load_split
from edgekit.runtime.errors import DataError, ParityError
from edgekit.runtime.preprocessing import Preprocessing

DIGITS = Preprocessing(8, 8, (0.3,), (0.36,), tuple("0123456789"))


@pytest.fixture(scope="module")
def batch() -> NDArray[np.float32]:
    split = load_split("digits", "test")
    return DIGITS(split.images.read(np.arange(64)))


@pytest.fixture(scope="module")
def module(batch: NDArray[np.float32]) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)]
    classifier = [nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)]
    network = nn.Sequential(*layers, *classifier)
    network.train()(torch.from_numpy(batch))
    return network


@pytest.fixture(scope="module")
def model(module: nn.Module) -> ir.Model:
    return to_onnx(module, DIGITS)


def test_a_faithful_graph_agrees_and_the_module_keeps_its_mode(
    module: nn.Module, model: ir.Model, batch: NDArray[np.float32]
) -> None:
    parity = check_parity(module.train(), model, batch)
    assert module.training
    assert parity.samples == 64
    assert 0 < parity.max_abs_error < 1e-5
    assert parity.max_rel_error < 1e-5
    assert parity.top1_agreement == 1.0


def test_many_images_are_compared_a_few_at_a_time(
    module: nn.Module, model: ir.Model, batch: NDArray[np.float32]
) -> None:
    sizes: list[int] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    parity = check_parity(module, model, batch[:50])
    hook.remove()
    assert parity.samples == sum(sizes) == 50
    assert max(sizes) < 50


@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "7.bias"])
def test_one_perturbed_weight_breaks_parity(
    module: nn.Module, model: ir.Model, batch: NDArray[np.float32], name: str
) -> None:
    wrong = from_proto(to_proto(model))
    value = wrong.graph.initializers[name]
    assert value.const_value is not None
    weights = value.const_value.numpy().copy()
    weights.flat[3] += 0.01 + 0.01 * weights.flat[3]
    value.const_value = ir.tensor(weights, name=name)
    with pytest.raises(ParityError, match=r"maximum absolute difference .* relative .* top-1"):
        check_parity(module, wrong, batch)


def test_logits_that_depend_on_the_rest_of_the_batch_are_refused(
    batch: NDArray[np.float32],
) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    mixing = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(4 * 36, 10))
    with pytest.raises(ParityError, match="when it is alone in its batch"):
        check_parity(mixing, to_onnx(mixing, DIGITS), batch)


def test_not_finite_logits_never_agree() -> None:
    fine = np.ones((2, 3), np.float32)
    broken = np.full((2, 3), np.nan, np.float32)
    with pytest.raises(ParityError):
        compare_logits(fine, broken)
    with pytest.raises(ParityError, match="not finite"):
        compare_logits(broken, broken)


def test_the_limit_grows_with_the_logits() -> None:
    logits = np.array([[1000.0, -20.0]], np.float32)
    assert compare_logits(logits, logits + 0.05).top1_agreement == 1.0
    with pytest.raises(ParityError):
        compare_logits(logits, logits + 0.2)


def test_images_of_the_wrong_size_and_none_at_all_are_refused(
    module: nn.Module, model: ir.Model, batch: NDArray[np.float32]
) -> None:
    with pytest.raises(DataError, match="at least one image"):
        check_parity(module, model, batch[:0])
