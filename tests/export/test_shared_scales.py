from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.export.graph import from_proto, to_proto
from edgekit.export.kernel_shapes import fit_kernels
from edgekit.export.quantize import quantize
from edgekit.export.refinement import Refinements
from edgekit.export.shared_scales import share_scales
from edgekit.export.static_options import StaticOptions
from edgekit.export.verify import largest_difference, run_outputs
from edgekit.export.wider_channels import widen_channels

JOIN = """g (float[N, 8, 8, 8] x) => (float[N, 16, 4, 4] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w)
    b = Relu(a)
    c = Conv<pads = [1, 1, 1, 1], group = 2>(x, v)
    d = Concat<axis = 1>(b, c)
    e = Concat<axis = 1>(b, c, c)
    m = Max(e, t)
    o = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(m)
    y = Conv(o, u)
}"""


@pytest.fixture
def model(text_graph: Callable[..., ir.Model]) -> ir.Model:
    generator = np.random.default_rng(0)
    shapes = {"w": (12, 8, 3, 3), "v": (14, 4, 3, 3), "u": (16, 40, 1, 1), "t": (40, 1, 1)}
    return text_graph(
        JOIN,
        **{name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
    )


def batch(count: int = 32) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((count, 8, 8, 8), np.float32)}


def inferred(model: ir.Model) -> ir.Model:
    return from_proto(onnx.shape_inference.infer_shapes(to_proto(model)))


bounds = st.tuples(st.floats(-9, 0), st.floats(0, 9))


@given(first=bounds, second=bounds, joint=bounds, largest=st.floats(1, 16))
def test_what_meets_has_one_range_that_holds_all_of_it(
    first: tuple[float, float],
    second: tuple[float, float],
    joint: tuple[float, float],
    largest: float,
) -> None:
    a, b = ir.Value(name="a"), ir.Value(name="b")
    node = ir.node("Concat", [a, b], {"axis": 1}, name="join")
    node.outputs[0].name = "c"
    graph = ir.Graph([a, b], node.outputs, nodes=[node], opset_imports={"": 20})
    ranges = {"a": first, "b": second, "c": joint}
    shared = share_scales(ir.Model(graph, ir_version=10), ranges, largest_ratio=largest)
    for group in shared.groups:
        (whole,) = {shared.ranges[name] for name in group}
        assert whole[0] == min(ranges[name][0] for name in group)
        assert whole[1] == max(ranges[name][1] for name in group)
    grouped = {name for group in shared.groups for name in group}
    assert grouped.isdisjoint(shared.apart)
    widths = [high - low for low, high in ranges.values()]
    for name in shared.apart:
        assert shared.ranges[name] == ranges[name]
        assert max(high for _, high in ranges.values()) - min(
            low for low, _ in ranges.values()
        ) > largest * (ranges[name][1] - ranges[name][0])
    if len(set(ranges.values())) == 1 and min(widths) > 1:
        assert not shared.apart


def test_shapes_for_fast_kernels_change_no_result(model: ir.Model) -> None:
    before, after = inferred(model), inferred(model)
    assert fit_kernels(after) == {"Conv": 1, "Concat": 1, "AveragePool": 1}
    assert widen_channels(after) == 2
    widths = {len(v.const_value.numpy()) for n, v in after.graph.initializers.items() if v.const_value is not None and n.startswith(("w", "v"))}  # fmt: skip # noqa: E501
    assert widths == {16}
    wanted = run_outputs(before, batch())
    assert largest_difference(wanted, run_outputs(after, batch())) < 1e-5
    wrong = next(v for n, v in after.graph.initializers.items() if n.startswith("u"))
    assert wrong.const_value is not None
    wrong.const_value = ir.tensor(wrong.const_value.numpy()[::-1].copy(), name=wrong.name)
    assert largest_difference(wanted, run_outputs(after, batch())) > 1e-2


def test_codes_pass_where_tensors_meet(model: ir.Model) -> None:
    options = StaticOptions(kernels="fast")
    result = quantize(model, "int8", reader=[batch()], static=options)
    ran = result.report.executed
    assert ran is not None
    assert [node.feeds for node in ran.in_float] == [("output",)]
    assert ran.nodes["Max"] == 2  # the threshold, and the Relu that a wider range no longer clips
    wanted, found = (run_outputs(m, batch()) for m in (model, result.model))
    (own,), (theirs,) = wanted.values(), found.values()
    assert 10 * np.log10((own**2).sum() / ((own - theirs) ** 2).sum()) > 25
    twin = quantize(model, "int8", reader=[{"x": batch()["x"] * 0.01}], static=options).model
    (clipped,) = run_outputs(twin, batch()).values()
    assert 10 * np.log10((own**2).sum() / ((own - clipped) ** 2).sum()) < 10


def test_what_a_concat_requantizes_is_told(text_graph: Callable[..., ir.Model]) -> None:
    def notes(factor: float) -> tuple[str, ...]:
        made = text_graph(
            "g (float[n,3,6,6] x) => (float[n,5,6,6] y)"
            "{ a = Conv(x, u) b = Conv(x, v) c = Concat<axis = 1>(a, b) y = Conv(c, w) }",
            u=weight(4, 3),
            v=weight(4, 3) * np.float32(factor),
            w=weight(5, 8),
        )
        options = StaticOptions(refinements=Refinements("off", "off"), kernels="keep")
        feeds = [{"x": np.random.default_rng(0).standard_normal((8, 3, 6, 6), np.float32)}]
        return quantize(made, "int8", reader=feeds, static=options).report.notes

    def weight(outputs: int, inputs: int) -> np.ndarray:
        shape = (outputs, inputs, 1, 1)
        return np.random.default_rng(outputs).standard_normal(shape).astype(np.float32)

    assert notes(1) == ()
    (note,) = notes(0.1)
    assert note.endswith("keep a scale of their own, and are requantized: b (10 times)")
