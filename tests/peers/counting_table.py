"""Multiply-accumulates of torchvision's models, by edgekit and by others, as a markdown table.

    python tests/peers/counting_table.py [MODEL ...]

edgekit and onnx-tool count the same ONNX file; torch's FlopCounterMode counts the module. No
weights are needed: the modules are built without values. "published" is `weights.meta["_ops"]`, in
10^9.
"""

from __future__ import annotations

import io
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgekit.bench.count import Counts, count
from edgekit.train.vision import torchvision

MODELS = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "densenet169",
    "efficientnet_b0",
    "efficientnet_b1",
    "googlenet",
    "mnasnet0_5",
    "mnasnet1_0",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "vgg11",
    "vit_b_32",
)
OPSET = 18


@dataclass(frozen=True)
class Subject:
    """A model of torchvision without values, and its input for one image."""

    name: str
    published: float
    module: torch.nn.Module
    image: torch.Tensor


def subject(name: str) -> Subject:
    """Build a model on torch's meta device, at the size that its weights were published for."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    (size,) = weights.transforms().crop_size
    image = torch.zeros(1, 3, size, size, device="meta")
    with quiet():
        try:
            with torch.device("meta"):
                module = torchvision.models.get_model(name, weights=None)
        except NotImplementedError:  # regnet computes its widths with torch
            module = torchvision.models.get_model(name, weights=None).to("meta")
    return Subject(name, float(weights.meta["_ops"]), module.eval(), image)


def to_onnx(given: Subject) -> onnx.ModelProto:
    """Trace the model to ONNX; its values are whatever memory holds."""
    module = given.module.to_empty(device="cpu")
    file = io.BytesIO()
    with quiet():
        torch.onnx.export(
            module, (torch.zeros(given.image.shape),), file, dynamo=False, opset_version=OPSET
        )
    return onnx.load_from_string(file.getvalue())


def edgekit_counts(model: onnx.ModelProto) -> Counts:
    """What edgekit counts."""
    return count(ir.from_proto(model))


def torch_macs(given: Subject) -> int:
    """Half of what torch's FlopCounterMode counts; it runs on the meta device."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        given.module(given.image)
    return int(counter.get_total_flops()) // 2


def onnx_tool_macs(model: onnx.ModelProto) -> dict[str, int] | None:
    """What onnx-tool counts by operator; None where it does not take the model."""
    import onnx_tool

    with tempfile.TemporaryDirectory() as folder, quiet(), redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        try:
            read = onnx_tool.Model(str(path))
            read.graph.shape_infer()
            read.graph.profile()
        except Exception:  # it raises whatever it meets
            return None
        by_operator: Counter[str] = Counter()
        for node in read.graph.nodemap.values():
            by_operator[node.op_type] += int(node.macs[0])
        return dict(by_operator)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of others, which are about exporters and initial values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def table(names: Sequence[str]) -> Iterator[str]:
    """The table, line by line."""
    yield "| model | published | edgekit | torch | onnx-tool | what onnx-tool counts besides |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for name in names:
        given = subject(name)
        by_torch = torch_macs(given)
        model = to_onnx(given)
        counts, other = edgekit_counts(model), onnx_tool_macs(model)
        yield (
            f"| {name} | {given.published:.3f} | {counts.macs:,} | {_same(by_torch, counts.macs)} "
            f"| {'cannot' if other is None else f'{sum(other.values()):,}'} "
            f"| {'' if other is None else ', '.join(_differences(counts, other))} |"
        )


def _differences(counts: Counts, other: Mapping[str, int]) -> Iterator[str]:
    """Where the other count is not ours, the largest difference first."""
    by_operator = Counter(other)
    for node in counts.nodes:
        by_operator[node.op_type] -= node.macs
    for op_type, difference in sorted(by_operator.items(), key=lambda entry: -abs(entry[1])):
        if difference:
            yield f"{op_type} {difference:+,}"


def _same(number: int, reference: int) -> str:
    return "the same" if number == reference else f"{number - reference:+,}"


if __name__ == "__main__":
    for line in table(sys.argv[1:] or MODELS):
        print(line, flush=True)
