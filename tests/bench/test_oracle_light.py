"""The nine light models in the onnx package against the oracle that knows no formula.

Each convolution and matrix product of a model is cut out with the shapes that it has there, its
padding made explicit, and run in onnxruntime on ones; the sum of its output is its
multiply-accumulates. Shapes come from a run of the whole model, not from inference.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from edgekit.bench.count import count
from edgekit.runtime.session import open_session

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
MODELS = sorted(path.stem for path in LIGHT.glob("*.onnx"))
OPSET = 13


def test_there_are_nine_light_models() -> None:
    assert len(MODELS) >= 9


@cache
def ran_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Shape of every operand and result of a product, from a run on zeros."""
    model = onnx.load(LIGHT / f"{name}.onnx")
    wanted = sorted(
        {value for node in products(model) for value in (*node.input[:2], *node.output)}
    )
    known = {value.name for value in (*model.graph.output, *model.graph.input)}
    model.graph.output.extend(
        helper.make_empty_tensor_value_info(value) for value in wanted if value not in known
    )
    session = open_session(model, optimize=False)
    feeds = {
        entry.name: np.zeros([d if isinstance(d, int) else 1 for d in entry.shape], np.float32)
        for entry in session.get_inputs()
    }
    names = [value for value in wanted if value not in feeds]
    results = session.run(names, feeds)
    shapes = {value: result.shape for value, result in zip(names, results, strict=True)}
    return shapes | {value: array.shape for value, array in feeds.items()}


def products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]


def by_run(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    settings: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    x, w = (list(shapes[value]) for value in node.input[:2])
    if node.op_type == "Conv":
        pads = settings.pop("pads", [0] * 4)
        assert settings.pop("auto_pad", b"NOTSET") == b"NOTSET"
        x[2:] = [size + pads[i] + pads[i + 2] for i, size in enumerate(x[2:])]
    for name in ("alpha", "beta"):
        settings.pop(name, None)
    made = helper.make_node(node.op_type, ["x", "w"], ["y"], **settings)
    inputs = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", x), ("w", w))]
    output = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph([made], "product", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8
    feeds = {"x": np.ones(x, np.float32), "w": np.ones(w, np.float32)}
    result = open_session(model, optimize=False).run(None, feeds)[0]
    if node.op_type == "Conv":
        assert result.shape == shapes[node.output[0]]
    return int(result.sum(dtype=np.float64))


@pytest.mark.parametrize("name", MODELS)
def test_every_product_of_a_light_model_counts_what_it_sums_up(name: str) -> None:
    model = onnx.load(LIGHT / f"{name}.onnx")
    shapes, counts = ran_shapes(name), count(ir.from_proto(model))
    assert counts.uncounted_ops == ()
    cases: Counter[tuple[Any, ...]] = Counter()
    examples: dict[tuple[Any, ...], onnx.NodeProto] = {}
    by_output = {}
    for node in products(model):
        attributes = tuple(sorted(a.SerializeToString() for a in node.attribute))
        key = (node.op_type, *(shapes[value] for value in node.input[:2]), attributes)
        cases[key] += 1
        examples[key] = node
        by_output[node.output[0]] = key
    sums = {key: by_run(node, shapes) for key, node in examples.items()}
    assert counts.macs == sum(sums[key] * times for key, times in cases.items())
    for counted, node in zip((n for n in counts.nodes if n.macs), products(model), strict=True):
        assert counted.macs == sums[by_output[node.output[0]]]
