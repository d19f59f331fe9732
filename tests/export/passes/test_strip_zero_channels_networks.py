from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.graph import to_proto
from edgekit.export.optimize import optimize
from edgekit.export.passes.strip_zero_channels import StripZeroChannels
from edgekit.export.to_onnx import to_onnx
from edgekit.export.verify import largest_difference, random_inputs, run_outputs
from edgekit.runtime.preprocessing import Preprocessing

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet-pre": ("densenet", {"order": "pre", "blocks": (3, 3), "bottleneck": 2}),
    "densenet-post": ("densenet", {"order": "post", "blocks": (3, 3), "groups": 2}),
    "resnet": ("resnet", {"widths": (16, 32, 64)}),
    "efficientnet": (
        "efficientnet",
        {"widths": (16, 24), "depths": 2, "expand": 4, "kernels": 3, "strides": 2},
    ),
}
FOLDS = ["fold-constants", "remove-identities", "fold-batch-norm", "remove-unused"]


@cache
def exported(name: str) -> bytes:
    torch = pytest.importorskip("torch")
    from edgekit.train.models.table import build_model

    torch.manual_seed(0)
    model, options = NETWORKS[name]
    module = build_model(model, options, in_channels=3, num_classes=10).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean, std=0.3)
            torch.nn.init.uniform_(part.running_var, 0.3, 2)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, std=0.3)
    graph = to_onnx(module, Preprocessing(16, 16, (0.0,) * 3, (1.0,) * 3))
    optimize(graph, FOLDS)
    return to_proto(graph).SerializeToString()


def weights(model: ir.Model) -> list[tuple[ir.Value, NDArray[np.float32]]]:
    """The weights of convolutions, and copies of what they hold."""
    values = [node.inputs[1] for node in model.graph if node.op_type == "Conv"]
    return [(v, v.const_value.numpy().copy()) for v in values if v is not None and v.const_value]


def zero_channels(model: ir.Model) -> None:
    """Zero filters, with and without their biases, and input channels, whole layers included."""
    random = np.random.default_rng(0)
    for index, (value, weight) in enumerate(weights(model)):
        weight[random.random(len(weight)) < 0.3] = 0
        weight[:, random.random(weight.shape[1]) < 0.2] = 0
        if index == 4:
            weight[:] = 0
        value.const_value = ir.tensor(weight, name=value.name)
    for node in model.graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        if bias is not None and bias.const_value is not None:
            array = bias.const_value.numpy().copy()
            array[random.random(len(array)) < 0.5] = 0
            bias.const_value = ir.tensor(array, name=bias.name)


def prune_by_magnitude(model: ir.Model) -> None:
    """Zero the smallest nine tenths of each convolution."""
    for value, weight in weights(model):
        weight[np.abs(weight) <= np.quantile(np.abs(weight), 0.9)] = 0
        value.const_value = ir.tensor(weight, name=value.name)


@pytest.mark.parametrize("prune", [zero_channels, prune_by_magnitude])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("passes", [["strip-zero-channels"], None])
def test_pruned_networks_shrink_and_compute_the_same(
    name: str, prune: Any, passes: list[str] | None
) -> None:
    model = ir.from_proto(onnx.load_model_from_string(exported(name)))
    prune(model)
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    report = {step.name: step for step in optimize(model, passes).steps}["strip-zero-channels"]
    assert report.changed > 0
    assert any("MACs" in change.what for change in report.done)
    onnx.checker.check_model(to_proto(model), full_check=True)
    assert largest_difference(before, run_outputs(model, inputs)) <= 5e-6
    assert not StripZeroChannels()(model).modified


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_without_zeros_are_left_as_they_are(name: str) -> None:
    proto = onnx.load_model_from_string(exported(name))
    model = ir.from_proto(proto)
    reference = ir.to_proto(model)
    strip = StripZeroChannels()
    assert not strip(model).modified
    assert strip.refusals == []
    assert ir.to_proto(model) == reference


def chain(nodes: int) -> ir.Model:
    """Convolutions and activations in a row, with a zero filter and an unread input in each."""
    random = np.random.default_rng(0)
    lines, constants = [], []
    value = "x"
    for index in range(nodes // 2):
        weight = random.standard_normal((4, 4, 1, 1)).astype(np.float32)
        weight[index % 4] = 0
        weight[:, (index + 2) % 4] = 0
        constants.append(onnx.numpy_helper.from_array(weight, f"w{index}"))
        lines += [f"c{index} = Conv({value}, w{index})", f"a{index} = Sigmoid(c{index})"]
        value = f"a{index}"
    text = f"g (float[1,4,2,2] x) => (float[1,4,2,2] {value}) {{ {' '.join(lines)} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    proto.graph.initializer.extend(constants)
    return ir.from_proto(proto)


def seconds(nodes: int) -> float:
    model = chain(nodes)
    start = time.perf_counter()
    strip = StripZeroChannels()
    strip(model)
    assert strip.changes > nodes // 2
    return time.perf_counter() - start


def test_time_grows_linearly_with_the_nodes() -> None:
    seconds(100)
    short, long = (min(seconds(nodes) for _ in range(2)) for nodes in (1000, 4000))
    assert long < 10 * short  # four times as long; sixteen times were it quadratic
