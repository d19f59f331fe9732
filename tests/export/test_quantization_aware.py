"""From quantization-aware training to the int8 file: its codes are those that were trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgekit.export.calibration import CalibrationReader
from edgekit.export.graph import save_graph
from edgekit.export.optimize import optimize
from edgekit.export.quantize import quantize
from edgekit.export.to_onnx import to_onnx
from edgekit.runtime.accuracy import evaluate
from edgekit.runtime.data.load import load_split
from edgekit.runtime.session import open_session
from edgekit.train.checkpoint import Checkpoint, load_checkpoint
from edgekit.train.recipe import parse_recipe
from edgekit.train.run import run_recipe
from tests.processor import needs_exact_int8

RECIPE = """
name = "aware"
[data]
name = "digits"
validation = 0.2
[model]
name = "densenet"
order = "post"
blocks = [2]
growth = 8
bottleneck = 2
stem_width = 8
[train]
epochs = 10
batch_size = 32
learning_rate = 0.1
[quantize]
begin = 0.5
method = "{method}"
weight_bits = {bits}
"""


@dataclass(frozen=True)
class Chain:
    """A quantization-aware run, and what became of it."""

    checkpoint: Checkpoint
    accuracy: float
    exported: ir.Model
    quantized: ir.Model
    path: Path


def chain(folder: Path, method: str, bits: int) -> Chain:
    recipe = parse_recipe(RECIPE.format(method=method, bits=bits), origin="aware")
    run = run_recipe(recipe, folder, progress=False)
    assert run.last_accuracy is not None
    checkpoint = load_checkpoint(run.checkpoint)
    exported = to_onnx(checkpoint.build(), checkpoint.preprocessing)
    optimize(exported)
    images = load_split("digits", "train", validation=0.2)
    reader = CalibrationReader.from_split(images, checkpoint.preprocessing, exported, samples=256)
    quantized = quantize(exported, "int8", reader=reader).model
    save_graph(quantized, folder / "int8.onnx")
    return Chain(checkpoint, run.last_accuracy, exported, quantized, folder / "int8.onnx")


@pytest.fixture(scope="module", params=[("learned-step", 4), ("straight-through", 3)])
def chained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    method, bits = request.param
    return chain(tmp_path_factory.mktemp(method), method, bits)


def weights_of(model: ir.Model) -> dict[str, np.ndarray]:
    """The float weights of Conv and Gemm, by the names of the nodes."""
    found = {}
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm"):
            assert node.inputs[1] is not None
            assert node.inputs[1].const_value is not None
            found[str(node.name)] = node.inputs[1].const_value.numpy()
    return found


def dequantized(model: ir.Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(codes, what they stand for) of the weights, by the names of the nodes."""
    found = {}
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm"):
            assert node.inputs[1] is not None
            pair = node.inputs[1].producer()
            assert pair is not None
            codes, scale = (v.const_value.numpy() for v in pair.inputs[:2])  # type: ignore[union-attr]
            shape = [1] * codes.ndim
            shape[pair.attributes.get_int("axis", 1)] = -1
            found[str(node.name)] = codes, codes * scale.reshape(shape)
    return found


def test_the_exported_weights_are_the_trained_ones_with_batch_norm_folded(chained: Chain) -> None:
    network = chained.checkpoint.build()
    exported = weights_of(chained.exported)
    conv, norm = network.get_submodule("stem.conv"), network.get_submodule("stem.norm")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded = (conv.weight * factor[:, None, None, None]).detach().numpy()
    name = "stem.conv"
    np.testing.assert_allclose(exported[name], folded, rtol=1e-5)


def test_quantize_finds_the_very_codes_that_were_trained(chained: Chain) -> None:
    exported, quantized = weights_of(chained.exported), dequantized(chained.quantized)
    largest = 7 if '"learned-step"' in chained.checkpoint.recipe else 3
    assert len(exported) == len(quantized) == 6
    for name, weight in exported.items():
        codes, values = (whole[tuple(map(slice, weight.shape))] for whole in quantized[name])
        peak = np.abs(weight).max()
        assert np.abs(codes.astype(int)).max() <= largest, name
        assert np.abs(values - weight).max() <= 2e-6 * peak, name
        rounded = np.round(weight / (peak / 127)) * (peak / 127)
        assert np.abs(rounded - weight).max() > 1e-3 * peak, name


@needs_exact_int8
def test_the_int8_file_is_right_as_often_as_the_network_was_in_training(chained: Chain) -> None:
    split = load_split("digits", "validation", validation=0.2)
    found = evaluate(open_session(chained.path), chained.checkpoint.preprocessing, split)
    assert chained.accuracy > 0.8
    assert abs(found.correct - round(chained.accuracy * len(split))) <= 2
