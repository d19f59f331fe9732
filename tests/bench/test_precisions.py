"""One model in every precision that edgekit writes: the same counts, its own widths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bench.count import Counts, count
from edgekit.export.graph import load_graph
from edgekit.export.quantize import quantize
from edgekit.export.static_options import StaticOptions

# precision -> (weight bits stored, weight bits multiplied, activation bits multiplied) of the Conv
WIDTHS = {
    "fp32": (32, 32, 32),
    "fp16": (16, 16, 16),
    "fp16-storage": (16, 32, 32),
    "int8": (8, 8, 8),
    "int16": (8, 8, 16),
    "dynamic-int8": (8, 8, 8),
}


@pytest.fixture
def counted(classifier_file: Callable[..., Path]) -> Callable[[str], Counts]:
    """Count a classifier with 10 zero weights after conversion, by the graph alone."""
    model = load_graph(classifier_file(zeros=10, filters=64))
    for name in ("w1", "w2"):  # no weight so small that a conversion rounds it to zero
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy()
        value.const_value = ir.tensor((np.sign(array) * (0.5 + np.abs(array) % 1)), name=name)
    rng = np.random.default_rng(3)
    feeds = [{"image": rng.normal(size=(8, 1, 8, 8)).astype(np.float32)} for _ in range(2)]

    def build(precision: str) -> Counts:
        if precision == "fp32":
            return count(model)
        reader = feeds if precision in ("int8", "int16") else None
        result = quantize(model, precision, reader=reader, static=StaticOptions(kernels="keep"))
        result.model.metadata_props.clear()
        return count(result.model)

    return build


@pytest.mark.parametrize("precision", WIDTHS)
def test_counts_do_not_depend_on_the_precision(
    counted: Callable[[str], Counts], precision: str
) -> None:
    counts = counted(precision)
    assert counts.params == 576 + 64 + 256 + 4
    assert counts.macs == 64 * 576 + 256
    weights = [p for p in counts.learned if p.elements in (576, 256)]
    assert sorted(p.nonzero for p in weights) == [256, 566]
    assert counts.effective_macs == 64 * 566 + 256
    assert counts.uncounted_ops == ()
    assert counts.peak_activation_bytes is not None


@pytest.mark.parametrize("precision", WIDTHS)
def test_each_precision_counts_at_its_widths(
    counted: Callable[[str], Counts], precision: str
) -> None:
    counts = counted(precision)
    stored, weight_bits, activation_bits = WIDTHS[precision]
    conv = next(node for node in counts.nodes if node.macs == 64 * 576)
    assert (conv.weight_bits, conv.activation_bits) == (weight_bits, activation_bits)
    assert {p.bits for p in counts.learned if p.elements == 576} == {stored}
    assert counts.precision == precision
