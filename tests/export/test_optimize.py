from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgekit.export.graph import metadata, set_metadata, tensor_bytes, to_proto
from edgekit.export.optimize import METADATA_KEY, optimize
from edgekit.export.passes.table import PASSES, PassEntry
from edgekit.export.verify import largest_difference, random_inputs, run_outputs
from edgekit.runtime.errors import InputError, ModelFileError, PassError

NETWORK = """g (float[N,3,8,8] x) => (float[N,5] y) {
    i = Identity(x)
    c = Conv(i, w)
    n = BatchNormalization(c, scale, shift, mean, var)
    a = Relu(n)
    d = Conv(a, v)
    p = GlobalAveragePool(d)
    q = GlobalAveragePool(d)
    s = Add(p, q)
    f = Flatten(s)
    o = Dropout(f)
    y = Gemm(o, u, k)
    unused = Neg(x)
}"""


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def network(text_graph) -> ir.Model:
    kernel = floats(4, 3, 3, 3)
    kernel[1] = 0
    ones = np.ones(4, np.float32)
    return text_graph(
        NETWORK, w=kernel, v=floats(6, 4, 1, 1, seed=1), u=floats(6, 5, seed=2),
        k=np.zeros(5, np.float32), scale=ones, var=ones * 2, shift=floats(4, seed=3),
        mean=floats(4, seed=4),
    )  # fmt: skip


class ScaleWeights(ir.passes.InPlacePass):
    """A pass that is wrong by one in a thousand."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            assert tensor is not None
            if tensor.dtype == ir.DataType.FLOAT:
                value.const_value = ir.tensor(tensor.numpy() * np.float32(1.001), name=value.name)
        return ir.passes.PassResult(model, modified=True)


class BreakGraph(ir.passes.InPlacePass):
    """A pass that leaves an operator that does not exist."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph[0].op_type = "NoSuchOperator"
        return ir.passes.PassResult(model, modified=True)


class Fail(ir.passes.InPlacePass):
    """A pass that raises."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        raise RuntimeError(f"cannot read\n{len(model.graph)} nodes")


@pytest.fixture
def add_pass(monkeypatch: pytest.MonkeyPatch) -> Any:
    def add(factory: Any) -> None:
        monkeypatch.setitem(PASSES, "wrong", PassEntry(factory, "for the test"))

    return add


def test_every_pass_does_its_part_and_the_outputs_stay(network: ir.Model) -> None:
    inputs = random_inputs(network)
    before, size = run_outputs(network, inputs), tensor_bytes(network)
    report = optimize(network)
    assert [node.op_type for node in network.graph] == [
        "Conv", "Relu", "Conv", "GlobalAveragePool", "Add", "Flatten", "Gemm",
    ]  # fmt: skip
    assert largest_difference(before, run_outputs(network, inputs)) <= 2e-6
    onnx.checker.check_model(to_proto(network), full_check=True)
    assert tensor_bytes(network) < size
    changed = {step.name: step.changed for step in report.steps}
    assert changed["remove-identities"] == 2
    assert changed["fold-batch-norm"] == 1
    assert changed["strip-zero-channels"] == 1
    assert changed["merge-common-subexpressions"] == 1
    assert [step.name for step in report.steps] == list(PASSES)
    assert report.max_error is not None
    assert 0 <= report.max_error < 2e-6


def test_names_and_the_dynamic_batch_stay(network: ir.Model) -> None:
    optimize(network)
    assert [(v.name, str(v.shape)) for v in network.graph.inputs] == [("x", "[N,3,8,8]")]
    assert [(v.name, str(v.shape)) for v in network.graph.outputs] == [("y", "[N,5]")]


def test_a_second_optimization_changes_nothing(network: ir.Model) -> None:
    optimize(network)
    first = to_proto(network).SerializeToString(deterministic=True)
    report = optimize(network)
    assert [step.changed for step in report.steps] == [0] * len(PASSES)
    assert to_proto(network).SerializeToString(deterministic=True) == first


def test_the_passes_that_ran_are_recorded_after_those_before(network: ir.Model) -> None:
    optimize(network, ["remove-unused"])
    optimize(network, ["fold-batch-norm", "remove-unused"])
    assert json.loads(metadata(network)[METADATA_KEY]) == ["remove-unused", "fold-batch-norm"]


@pytest.mark.parametrize("record", ["{not json", "[" * 100_000])
def test_damaged_records_of_passes_are_replaced(network: ir.Model, record: str) -> None:
    set_metadata(network, {METADATA_KEY: record})
    optimize(network, ["remove-unused"])
    assert json.loads(metadata(network)[METADATA_KEY]) == ["remove-unused"]


def test_only_the_passes_asked_for_run(network: ir.Model) -> None:
    report = optimize(network, ["fold-batch-norm"])
    assert [step.name for step in report.steps] == ["fold-batch-norm"]
    assert "Identity" in [node.op_type for node in network.graph]


def test_an_unknown_pass_is_an_error_that_lists_the_known(network: ir.Model) -> None:
    with pytest.raises(InputError, match=r"no pass is named 'fold'; there are fold-constants, "):
        optimize(network, ["fold"])


def test_refusals_are_reported(text_graph) -> None:
    model = text_graph(
        "g (float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] c)"
        "{ c = Conv(x, w) y = BatchNormalization(c, k, k, k, k) }",
        w=floats(4, 3, 3, 3), k=np.ones(4, np.float32),
    )  # fmt: skip
    (step,) = optimize(model, ["fold-batch-norm"]).steps
    assert [refusal.reason for refusal in step.refusals] == [
        "the value between, c, is a graph output"
    ]
    assert step.max_error is None


def test_a_pass_that_changes_the_outputs_is_named_with_its_error(
    network: ir.Model, add_pass: Any
) -> None:
    add_pass(ScaleWeights)
    with pytest.raises(PassError, match=r"pass wrong \(after fold-batch-norm\) .* by 0\.00\d+ of"):
        optimize(network, ["fold-batch-norm", "wrong"])


def test_a_pass_that_breaks_the_model_is_named(network: ir.Model, add_pass: Any) -> None:
    add_pass(BreakGraph)
    with pytest.raises(PassError, match="pass wrong left a model that does not run"):
        optimize(network, ["wrong"])


def test_a_pass_that_fails_is_named_in_one_line(network: ir.Model, add_pass: Any) -> None:
    add_pass(Fail)
    with pytest.raises(PassError, match=r"pass wrong failed \(cannot read 12 nodes\)"):
        optimize(network, ["wrong"])


def test_without_verification_nothing_is_run(network: ir.Model, add_pass: Any) -> None:
    add_pass(ScaleWeights)
    report = optimize(network, ["wrong"], verify=False)
    assert (report.max_error, report.tolerance, report.steps[0].max_error) == (None, None, None)


def test_given_inputs_are_used(network: ir.Model, add_pass: Any) -> None:
    add_pass(ScaleWeights)
    constant = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    with pytest.raises(PassError):
        optimize(network, ["wrong"], inputs=constant)
    with pytest.raises(ModelFileError, match="--no-verify"):
        optimize(network, inputs={"z": constant["x"]})


def test_a_model_that_does_not_run_is_an_error_that_says_how_to_go_on(network: ir.Model) -> None:
    BreakGraph()(network)
    with pytest.raises(ModelFileError, match="--no-verify"):
        optimize(network)


def test_random_operators_are_an_error_that_says_how_to_go_on(text_graph) -> None:
    model = text_graph("g (float[2] x) => (float[2] y) { r = RandomUniformLike(x) y = Add(x, r) }")
    with pytest.raises(ModelFileError, match=r"RandomUniformLike.*--no-verify"):
        optimize(model)
    optimize(model, verify=False)


DROPOUT = "{ i = Identity(x) d = Dropout(i, ratio, mode) y = Add(x, d) }"


@pytest.mark.parametrize("also_inputs", [(), ("mode",)])
def test_a_dropout_that_trains_is_random(text_graph, also_inputs: tuple[str, ...]) -> None:
    model = text_graph(
        f"g (float[2,9] x) => (float[2,9] y) {DROPOUT}",
        also_inputs=also_inputs, ratio=np.float32(0.5), mode=np.array(True),
    )  # fmt: skip
    with pytest.raises(ModelFileError, match=r"Dropout.*--no-verify"):
        optimize(model)
    optimize(model, verify=False)


@pytest.mark.parametrize(
    ("ratio", "trains", "also_inputs"),
    [(0.5, False, ()), (0.5, False, ("mode",)), (0.0, True, ())],
)
def test_a_dropout_that_drops_nothing_is_not_random(
    text_graph, ratio: float, trains: bool, also_inputs: tuple[str, ...]
) -> None:
    model = text_graph(
        f"g (float[2,9] x) => (float[2,9] y) {DROPOUT}",
        also_inputs=also_inputs, ratio=np.float32(ratio), mode=np.array(trains),
    )  # fmt: skip
    assert optimize(model).max_error == 0


@pytest.mark.parametrize("trains", [False, True])
def test_a_dropout_trains_where_its_input_says_so(text_graph, trains: bool) -> None:
    model = text_graph(
        f"g (float[2,9] x, bool mode) => (float[2,9] y) {DROPOUT}", ratio=np.float32(0.5)
    )
    inputs = random_inputs(model) | {"mode": np.array(trains)}
    if trains:
        with pytest.raises(ModelFileError, match=r"Dropout.*--no-verify"):
            optimize(model, inputs=inputs)
    else:
        assert optimize(model, inputs=inputs).max_error == 0


def test_progress_is_told_after_each_pass(network: ir.Model) -> None:
    calls: list[tuple[int, int]] = []
    optimize(network, ["remove-unused"], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 1), (1, 1)]


QUANTIZED = """g (float[N,3,8,8] x) => (float[N,4,6,6] y) {
    q = QuantizeLinear(x, xs, xz)
    d = DequantizeLinear(q, xs, xz)
    w = DequantizeLinear<axis = 0>(wq, ws, wz)
    c = Conv(d, w)
    n = BatchNormalization(c, k, k, k, k)
    cq = QuantizeLinear(n, ys, yz)
    y = DequantizeLinear(cq, ys, yz)
}"""


def test_a_quantized_graph_passes_unharmed(text_graph) -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-128, 127, (4, 3, 3, 3)).astype(np.int8)
    weights[2] = 0
    model = text_graph(
        QUANTIZED, wq=weights, ws=np.full(4, 0.01, np.float32), wz=np.zeros(4, np.int8),
        xs=np.float32(0.02), xz=np.uint8(128), ys=np.float32(0.1), yz=np.uint8(128),
        k=np.ones(4, np.float32),
    )  # fmt: skip
    operators = [node.op_type for node in model.graph]
    report = optimize(model)
    assert [node.op_type for node in model.graph] == operators
    assert report.max_error == 0.0
    stored = model.graph.initializers["wq"].const_value
    assert stored is not None
    np.testing.assert_array_equal(stored.numpy(), weights)
    refusals = {step.name: step.refusals for step in report.steps}
    assert "is computed by DequantizeLinear" in refusals["fold-batch-norm"][0].reason


def test_weights_stored_in_half_precision_pass_unharmed(text_graph) -> None:
    model = text_graph(
        "g (float[N,3,8,8] x) => (float[N,4,6,6] y) { w = Cast<to = 1>(h) y = Conv(x, w) }",
        h=floats(4, 3, 3, 3).astype(np.float16),
    )
    size = tensor_bytes(model)
    assert optimize(model).max_error == 0.0
    assert tensor_bytes(model) == size


def test_a_half_precision_graph_is_folded_in_half_precision(text_graph) -> None:
    half = np.float16
    model = text_graph(
        """g (float[N,3,8,8] x) => (float[N,4,6,6] y) {
            h = Cast<to = 10>(x) c = Conv(h, w)
            n = BatchNormalization(c, s, t, m, v) y = Cast<to = 1>(n) }""",
        w=floats(4, 3, 3, 3).astype(half), s=np.ones(4, half), t=floats(4).astype(half),
        m=floats(4, seed=1).astype(half), v=np.ones(4, half),
    )  # fmt: skip
    optimize(model)
    assert [node.op_type for node in model.graph] == ["Cast", "Conv", "Cast"]
    assert {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.FLOAT16}


def test_a_model_with_functions_and_subgraphs_passes_unharmed() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 20, "local": 1]>
        g (bool which, float[2] x) => (float[2] y) {
            a = local.twice(x)
            y = If (which) <then_branch = t () => (float[2] p) { p = Identity(a) },
                            else_branch = e () => (float[2] q) { i = Identity(a) q = Neg(i) }>
        }
        <domain: "local", opset_import: ["": 20]>
        twice (v) => (r) { i = Identity(v) r = Add(i, i) }"""
    )
    model = ir.from_proto(proto)
    assert optimize(model).max_error == 0.0
    onnx.checker.check_model(to_proto(model), full_check=True)


torch = pytest.importorskip("torch")


def torchvision_network(name: str) -> ir.Model:
    """A torchvision network whose normalizations do something, as the raw exporter gives it."""
    from edgekit.train.vision import torchvision

    torch.manual_seed(0)
    module = getattr(torchvision.models, name)(num_classes=10).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean, std=0.3)
            torch.nn.init.uniform_(part.running_var, 0.3, 2)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, std=0.3)
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        module, (torch.randn(2, 3, 64, 64),), dynamo=True, optimize=False, verbose=False,
        dynamic_shapes={"x": {0: batch}}, opset_version=20,
    )  # fmt: skip
    return ir.from_proto(ir.to_proto(program.model))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch.onnx calls torch's old API
@pytest.mark.parametrize(
    ("name", "folded", "left"),
    [
        ("resnet18", 20, 0),
        pytest.param("mobilenet_v3_small", 34, 0, marks=pytest.mark.slow),
        pytest.param("densenet121", 59, 62, marks=pytest.mark.slow),
    ],
)
def test_the_batch_norms_of_torchvision_networks_fold(name: str, folded: int, left: int) -> None:
    model = torchvision_network(name)
    report = optimize(model)
    steps = {step.name: step for step in report.steps}
    assert steps["fold-batch-norm"].changed == folded
    assert steps["fold-batch-norm"].refusals == ()
    normalizations = [node for node in model.graph if node.op_type == "BatchNormalization"]
    assert len(normalizations) == left
    producers = [node.inputs[0].producer() for node in normalizations if node.inputs[0]]
    assert not any(node is not None and node.op_type == "Conv" for node in producers)
    assert report.max_error is not None
    assert report.max_error <= 5e-6
    assert str(model.graph.outputs[0].shape) == "[batch,10]"
