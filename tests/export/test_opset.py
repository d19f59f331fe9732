"""A model at another opset computes the same, or is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.graph import from_proto, to_proto
from edgekit.export.opset import convert_opset
from edgekit.export.verify import largest_difference, random_inputs, run_outputs
from edgekit.runtime.errors import ModelFileError

TextGraph = Callable[..., ir.Model]

RESIZED = "g (float[1, 2, 7, 7] x) => (float[a, b, c, d] y) { y = OPERATOR(x, scales) }"


def change(before: ir.Model, after: ir.Model) -> float:
    inputs = random_inputs(before)
    return largest_difference(run_outputs(before, inputs), run_outputs(after, inputs))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("operator", "opset", "scale"),
    [
        ("Upsample", 9, (2, 2)),
        ("Upsample", 9, (1.5, 3)),
        ("Resize", 10, (1.5, 2)),
        ("Resize", 10, (0.4, 0.7)),
    ],
)
def test_old_resizing_samples_where_it_did(
    text_graph: TextGraph, mode: str, operator: str, opset: int, scale: tuple[float, float]
) -> None:
    text = RESIZED.replace("OPERATOR", f'{operator}<mode = "{mode}">')
    scales = np.array((1, 1, *scale), np.float32)
    model = text_graph(text, opset=opset, scales=scales)
    found = convert_opset(model, 17)
    assert found.opset_imports[""] == 17
    assert change(model, found) < 1e-6


def test_a_conversion_that_changes_the_model_is_refused(text_graph: TextGraph) -> None:
    # Up to opset 12 it took all axes from the given one on for one.
    text = "g (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y) { y = Hardmax<axis = 1>(x) }"
    with pytest.raises(ModelFileError, match=r"from opset 11 to 17 .* computes something else"):
        convert_opset(text_graph(text, opset=11), 17)


def test_random_numbers_are_no_change(text_graph: TextGraph) -> None:
    text = "g (float[2, 3] x) => (float[2, 3] y) { r = RandomNormalLike(x) y = Add(x, r) }"
    assert convert_opset(text_graph(text, opset=13), 17).opset_imports[""] == 17


def test_the_long_name_of_the_standard_domain_is_known(text_graph: TextGraph) -> None:
    proto = to_proto(text_graph("g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }"))
    proto.opset_import[0].domain = "ai.onnx"
    model = from_proto(proto)
    assert model.opset_imports == {"": 20}
    assert change(model, convert_opset(model, 21)) == 0


def test_what_the_converter_stores_is_an_initializer(text_graph: TextGraph) -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = Clip<min = 0.0, max = 6.0>(x) }"
    model = convert_opset(text_graph(text, opset=9), 17)
    assert [node.op_type for node in model.graph] == ["Clip"]
    assert len(model.graph.initializers) == 2


def test_a_conversion_that_does_not_run_is_refused(text_graph: TextGraph) -> None:
    text = """g (float[2, 3] x) => (float[2, 3] y, float[2, 3] mask) {
        y, mask = Dropout<ratio = 0.3>(x)
    }"""
    with pytest.raises(ModelFileError, match="from opset 7 to 17 the model does not run"):
        convert_opset(text_graph(text, opset=7), 17)
