"""Peak activation memory: best order, file order, lower bound, and what the arena took."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.bench import arena, execution_order
from edgekit.bench.arena import arena_bytes
from edgekit.bench.count import count
from edgekit.bench.execution_order import Buffer, Flow, Peak, least_peak
from edgekit.runtime.errors import ModelFileError

Graph = Callable[..., ir.Model]


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Up to 7 steps, each reading some earlier results; an input that some of them read."""
    count = draw(st.integers(1, 7))
    needs = [draw(st.integers(0, 2**step - 1)) for step in range(count)]
    sizes = [draw(st.integers(1, 9)) for _ in range(count)]
    extra = [draw(st.integers(0, 4)) for _ in range(count)]
    buffers = [
        Buffer(sizes[step], 1 << step, 1 << step | readers(needs, step), draw(st.booleans()))
        for step in range(count)
    ]
    users = draw(st.integers(1, 2**count - 1))
    return Flow(needs, extra, [Buffer(draw(st.integers(1, 9)), 0, users), *buffers])


def readers(needs: list[int], step: int) -> int:
    return sum(1 << later for later, mask in enumerate(needs) if mask >> step & 1)


def orders(flow: Flow, done: int = 0) -> Iterator[list[int]]:
    count = len(flow.needs)
    if done == 2**count - 1:
        yield []
    for step in range(count):
        if not done >> step & 1 and not flow.needs[step] & ~done:
            yield from ([step, *rest] for rest in orders(flow, done | 1 << step))


def peak_of(flow: Flow, order: list[int]) -> int:
    """By definition: at each step, all that was made (or is made now) and is still to be used."""
    done, worst = 0, 0
    for step in order:
        now = done | 1 << step
        alive = sum(
            b.size
            for b in flow.buffers
            if (not b.writers or b.writers & now) and (b.kept or b.users & ~done)
        )
        worst, done = max(worst, alive + flow.extra[step]), now
    return worst


@settings(max_examples=150, deadline=None, database=None)
@given(flow=flows())
def test_the_best_order_is_the_best_of_all_orders(flow: Flow) -> None:
    peaks = [peak_of(flow, order) for order in orders(flow)]
    found = least_peak(flow)
    assert found.best == min(peaks) == found.lower_bound
    assert found.file_order == peak_of(flow, list(range(len(flow.needs))))
    assert found.best <= found.file_order <= max(peaks)


@settings(max_examples=80, deadline=None, database=None)
@given(flow=flows())
def test_without_a_search_the_bound_holds_and_the_order_is_real(flow: Flow) -> None:
    peaks = {peak_of(flow, order) for order in orders(flow)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution_order, "LARGEST_SEARCH", 0)
        found = least_peak(flow)
    assert found.lower_bound <= min(peaks) <= found.best <= found.file_order
    assert found.best in peaks


def test_wide_graphs_are_bounded_in_time() -> None:
    """Sixteen branches of three steps: more sets of steps than can be searched."""
    branches, length = 16, 3
    needs, buffers = [0], [Buffer(1, 1, 1 | sum(1 << (1 + length * b) for b in range(branches)))]
    for branch in range(branches):
        for position in range(length):
            step = 1 + branch * length + position
            needs.append(1 << (step - 1 if position else 0))
            reader = step + 1 if position < length - 1 else 1 + branches * length
            buffers.append(Buffer(5 if position == 1 else 1, 1 << step, 1 << step | 1 << reader))
    needs.append(sum(1 << (length * (branch + 1)) for branch in range(branches)))
    buffers.append(Buffer(1, 1 << len(needs) - 1, 1 << len(needs) - 1, kept=True))
    found = least_peak(Flow(needs, [0] * len(needs), buffers))
    # branch by branch: the results of the others, and two steps of this one
    assert found.lower_bound <= branches + 1 <= found.best <= branches + 6
    assert found.best <= found.file_order


BRANCHES = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 1, 8, 8] x) => (float[1, 1, 4, 4] y)
<float two = {2}>
{
    wide = Concat <axis = 1> (x, x, x, x)
    other = Concat <axis = 1> (x, x, x)
    a = MaxPool <kernel_shape = [8, 8]> (wide)
    b = MaxPool <kernel_shape = [8, 8]> (other)
    c = ReduceSum (a)
    d = ReduceSum (b)
    e = Mul (c, d)
    f = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
    y = Mul (f, e)
}
"""


def test_an_order_that_ends_one_branch_first_needs_less(graph: Graph) -> None:
    model = graph(BRANCHES)
    peak = count(model).activations
    assert peak is not None
    image = 64 * 4
    assert peak.file_order == image * (1 + 4 + 3) + 4 * 4
    assert peak.best == image * (1 + 4) + 4 * 4
    assert peak.lower_bound == peak.best


def test_a_chain_has_one_order(graph: Graph) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 1, 8, 8] x) => (float[1, 1, 8, 8] y) { a = Relu (x) y = Relu (a) }
    """
    assert count(graph(text)).activations == Peak(512, 512, 512)


QUANTIZED = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 1000] x) => (OUTPUTS)
<float s = {0.5}, uint8 z = {0}>
{
    r = Relu (x)
    q = QuantizeLinear (r, s, z)
}
"""


@pytest.mark.parametrize(
    ("outputs", "peak"),
    [
        ("uint8[1, 1000] q", 4000 + 1000),  # the Relu writes codes
        ("float[1, 1000] r, uint8[1, 1000] q", 4000 + 4000),  # the caller gets its floats
    ],
)
def test_floats_that_the_caller_gets_are_not_fused_away(
    graph: Graph, outputs: str, peak: int
) -> None:
    counts = count(graph(QUANTIZED.replace("OUTPUTS", outputs)))
    assert counts.peak_activation_bytes == peak


def test_an_output_that_is_left_out_takes_no_memory(graph: Graph) -> None:
    """The last state alone: 7 steps of 3 floats in, 5 floats out."""
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[7, 1, 3] x) => (float[1, 1, 5] h) { , h = LSTM <hidden_size = 5> (x, w, r) }
    """
    model = graph(text, w=np.ones((1, 20, 3), np.float32), r=np.ones((1, 20, 5), np.float32))
    assert count(model).peak_activation_bytes == (21 + 5) * 4


def test_the_arena_takes_at_least_what_the_best_order_needs(
    classifier_file: Callable[..., Path],
) -> None:
    path = classifier_file(filters=512)
    peak = count(ir.load(path)).activations
    taken = arena_bytes(path)
    assert peak is not None
    assert taken is not None
    fed = 64 * 4  # the input is the caller's memory, not the arena's
    fused = 512 * 64 * 4  # the Relu works in place
    assert taken >= peak.best - fed - fused
    assert arena_bytes(path, input_shapes={"image": (64, 1, 8, 8)}) > 4 * taken


def test_a_log_of_another_form_is_no_measurement() -> None:
    assert arena._taken("nothing of interest") is None
    log = "BFCArena] Extended allocation by 10 bytes.\nBFCArena] Extended allocation by 5 bytes."
    assert arena._taken(log) == 15


def test_a_model_that_cannot_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x00\x01")
    with pytest.raises(ModelFileError, match=r"broken\.onnx: cannot be run"):
        arena_bytes(tmp_path / "broken.onnx")


# A Relu of 1000 floats in a body, of which another Relu makes 1000 more.
BODY = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 1000] x, bool c) => (float[1, 1000] y)
{
    SOURCE
    y = If (c) <
        then_branch = t () => (float[1, 1000] t2) { t1 = Relu (VALUE) t2 = Relu (t1) },
        else_branch = e () => (float[1, 1000] e1) { e1 = Neg (VALUE) }
    >
}
"""


@pytest.mark.parametrize(("source", "value"), [("a = Neg (x)", "a"), ("", "x")])
def test_a_body_computes_activations_of_what_it_reads_outside(
    graph: Graph, source: str, value: str
) -> None:
    found = count(graph(BODY.replace("SOURCE", source).replace("VALUE", value))).activations
    assert found is not None
    # What it reads, the result of the If, and two results inside it.
    assert found.best == 4 * 4000 + 1


def test_a_constant_outside_is_no_activation_of_a_body(graph: Graph) -> None:
    rows = "{" + ", ".join(["1.0"] * 4) + "}"
    text = BODY.replace("1000", "4").replace("VALUE", "k")
    stored = graph(text.replace("SOURCE", ""), k=np.ones((1, 4), np.float32))
    node = graph(text.replace("SOURCE", f"k = Constant <value = float[1, 4] {rows}> ()"))
    assert count(node).activations == count(stored).activations
