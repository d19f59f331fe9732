"""Batch norm in whole networks: what is left of it, and how exactly."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import pytest

from edgekit.export.graph import metadata
from edgekit.export.optimize import BATCH_NORM_KEY, optimize
from edgekit.export.passes.turn_batch_norm_into_threshold import Policy
from edgekit.runtime.preprocessing import Preprocessing

torch = pytest.importorskip("torch")

from edgekit.export.to_onnx import to_onnx  # noqa: E402 -- needs torch

PREPROCESSING = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def exported(module: torch.nn.Module, *, mixed: bool, size: int = 32) -> ir.Model:
    """A network whose normalizations do something, with scales of both signs or of one."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            uniform = torch.rand(3, part.num_features, generator=generator)
            normal = torch.randn(2, part.num_features, generator=generator) * 0.3
            part.running_mean.copy_(normal[0])
            part.running_var.copy_(uniform[0] * 1.7 + 0.3)
            signs = torch.where(uniform[2] < 0.4, -1.0, 1.0) if mixed else 1.0
            part.weight.data.copy_((uniform[1] + 0.5) * signs)
            part.bias.data.copy_(normal[1])
    preprocessing = Preprocessing(size, size, PREPROCESSING.mean, PREPROCESSING.std)
    return to_onnx(module.eval(), preprocessing)


def densenet(**options: object) -> torch.nn.Module:
    from edgekit.train.models.densenet import DenseNet, DenseNetConfig

    torch.manual_seed(0)
    config = DenseNetConfig(**{"blocks": (2, 2, 2), "growth": 12, **options})  # type: ignore[arg-type]
    return DenseNet(config, 3, 10)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("bottleneck", [4, 0])
@pytest.mark.parametrize("mixed", [False, True])
def test_no_batch_norm_is_left_of_a_pre_activation_densenet(mixed: bool, bottleneck: int) -> None:
    model = exported(densenet(bottleneck=bottleneck), mixed=mixed)
    report = optimize(model, batch_norm="threshold")
    left = operators(model)
    assert left["BatchNormalization"] == 0
    assert left["Max"] == 9 - 6 * (not bottleneck)
    assert left["Min"] == (left["Max"] if mixed else 0)
    assert left["Add"] == (6 if not (mixed or bottleneck) else 0)
    assert report.max_error is not None
    assert report.max_error < 1e-6
    assert [step.changed for step in optimize(model, batch_norm="threshold").steps] == (
        [0] * len(report.steps)
    )


def test_auto_takes_max_alone_where_a_concat_leaves_the_blocks() -> None:
    model = exported(densenet(), mixed=False)
    report = optimize(model)
    left = operators(model)
    assert left["Max"] > 0
    assert left["Max"] + left["BatchNormalization"] == 9
    assert left["Min"] == left["Add"] == 0
    (step,) = (step for step in report.steps if step.name == "turn-batch-norm-into-threshold")
    assert {change.what for change in step.done} == {"BatchNormalization and Relu became Max"}
    assert all("blocked layout" in refusal.reason for refusal in step.refusals)


@pytest.mark.parametrize("policy", ["auto", "keep"])
def test_mixed_signs_stay_in_float(policy: Policy) -> None:
    model = exported(densenet(), mixed=True)
    report = optimize(model, batch_norm=policy)
    assert operators(model)["BatchNormalization"] == 9
    assert report.batch_norm == metadata(model)[BATCH_NORM_KEY] == policy


def test_a_network_trained_with_positive_scales_needs_no_min() -> None:
    model = exported(densenet(positive_scales=True), mixed=True)
    scales = [
        node.inputs[1].const_value.numpy()
        for node in model.graph
        if node.op_type == "BatchNormalization" and not node.name.startswith("stem")
    ]
    assert "Abs" not in operators(model)
    assert all((scale > 0).all() for scale in scales)
    optimize(model, batch_norm="threshold")
    left = operators(model)
    assert (left["Max"], left["Min"], left["BatchNormalization"]) == (9, 0, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch.onnx calls torch's old API
def test_no_batch_norm_is_left_of_torchvisions_densenet121() -> None:
    from edgekit.train.vision import torchvision

    torch.manual_seed(0)
    module = torchvision.models.densenet121(num_classes=10)
    model = exported(module, mixed=True, size=64)
    report = optimize(model, batch_norm="threshold")
    steps = {step.name: step.changed for step in report.steps}
    assert steps["fold-batch-norm"] == 59
    assert steps["turn-batch-norm-into-threshold"] == 62
    assert operators(model)["BatchNormalization"] == 0
    assert report.max_error is not None
    assert report.max_error < 2e-6
