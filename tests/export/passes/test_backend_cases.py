"""ONNX's own test cases of each operator, and the light models of the onnx package.

Every pass must leave each case that onnxruntime passes passing. Each case is tried as it is, with
all its inputs, and with all but the first input stored in the model, so that passes find constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx.backend.test.loader import load_model_tests
from pass_trials import ALL, Factory, content

from edgekit.export.graph import to_proto
from edgekit.export.optimize import optimize
from edgekit.export.quiet import quiet
from edgekit.runtime.session import open_session

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


@dataclass(frozen=True)
class Case:
    """A model with inputs and the outputs that ONNX stores for them."""

    name: str
    model: onnx.ModelProto
    data: tuple[tuple[Sequence[Any], Sequence[Any]], ...]
    rtol: float
    atol: float

    def passes(self, model: onnx.ModelProto) -> bool:
        """Whether onnxruntime makes the stored outputs with a model in place of the case's."""
        try:
            session = open_session(model, optimize=False)
            names = [value.name for value in session.get_inputs()]
            return all(
                self._equal(session.run(None, dict(zip(names, inputs, strict=True))), outputs)
                for inputs, outputs in self.data
            )
        except Exception:  # onnxruntime has no kernel for it, or takes no such input
            return False

    def _equal(self, made: Any, stored: Any) -> bool:
        if isinstance(stored, list | tuple):
            return len(made) == len(stored) and all(map(self._equal, made, stored))
        if made is None or stored is None:
            return made is stored
        made, stored = np.asarray(made), np.asarray(stored)
        if made.shape != stored.shape or made.dtype != stored.dtype:
            return False
        if made.dtype.kind not in "fc":
            return bool(np.array_equal(made, stored))
        return np.allclose(made, stored, rtol=self.rtol, atol=self.atol, equal_nan=True)


def node_cases() -> Iterator[Case]:
    with quiet():
        found = load_model_tests(kind="node")
    for case in found:
        data = tuple((list(map(_array, made)), list(map(_array, read)))
                     for made, read in case.data_sets)  # fmt: skip
        yield Case(case.name, case.model, data, case.rtol, case.atol)


def _array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else value


def stored(case: Case) -> Case | None:
    """The case with all tensors but the first in the model; None where there are no others."""
    if len(case.data) != 1:
        return None
    (inputs, outputs), entries = case.data[0], list(case.model.graph.input)
    if len(inputs) != len(entries):
        return None
    fixed = [
        (entry, array)
        for entry, array in list(zip(entries, inputs, strict=True))[1:]
        if isinstance(array, np.ndarray) and array.dtype.kind in "fiub"
    ]
    if not fixed:
        return None
    names = {entry.name for entry, _ in fixed}
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.input[:]
    model.graph.input.extend(entry for entry in entries if entry.name not in names)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, entry.name) for entry, array in fixed
    )
    kept = [a for entry, a in zip(entries, inputs, strict=True) if entry.name not in names]
    return Case(f"{case.name}, stored", model, ((kept, outputs),), case.rtol, case.atol)


def broken(cases: Iterator[Case], passes: dict[str, Factory]) -> tuple[list[str], Counter[str]]:
    """The cases that a pass breaks, with its name; and how many each pass changed, of how many."""
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    for case in cases:
        if not case.passes(case.model):
            continue
        counts["cases"] += 1
        model = ir.from_proto(case.model)
        for name, factory in passes.items():
            before = content(model)
            try:
                with quiet():
                    factory()(model)
            except Exception as error:
                wrong.append(f"{case.name}: {name} fails: {error.__cause__ or error}")
                model = ir.from_proto(case.model)
                continue
            if content(model) == before:
                continue
            counts[name] += 1
            if not case.passes(to_proto(model)):
                wrong.append(f"{case.name}: {name}")
            model = ir.from_proto(case.model)
    return wrong, counts


@pytest.mark.slow
def test_every_pass_leaves_onnxs_cases_of_operators_passing() -> None:
    wrong, counts = broken(node_cases(), ALL)
    assert wrong == []
    assert counts["cases"] > 1300
    assert counts["fold-constants"] > 100


@pytest.mark.slow
def test_every_pass_leaves_them_passing_with_stored_inputs() -> None:
    cases = (variant for case in node_cases() if (variant := stored(case)))
    wrong, counts = broken(cases, ALL)
    assert wrong == []
    assert counts["cases"] > 900
    assert counts["fold-constants"] > 100


def light_cases() -> Iterator[Case]:
    for path in sorted(LIGHT.glob("*.onnx")):
        model = onnx.load(path)
        tensor = onnx.TensorProto()
        tensor.ParseFromString(path.with_name(f"{path.stem}_output_0.pb").read_bytes())
        output = onnx.numpy_helper.to_array(tensor)
        yield Case(path.stem, model, (([ramp(model)], [output]),), rtol=1e-3, atol=1e-7)


def ramp(model: onnx.ModelProto) -> NDArray[np.float32]:
    """The input that the stored outputs were made of."""
    weights = {tensor.name for tensor in model.graph.initializer}
    (entry,) = (value for value in model.graph.input if value.name not in weights)
    shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    size = int(np.prod(shape))
    return (np.arange(size, dtype=np.float32) / size).reshape(shape)


@pytest.mark.slow
def test_every_pass_leaves_the_light_models_passing() -> None:
    wrong, counts = broken(light_cases(), ALL)
    assert wrong == []
    assert counts["cases"] == 9


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A light model whose ConstantOfShape nodes are random weights, none of which callers give."""
    random = np.random.default_rng(0)
    shapes = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in model.graph.initializer}
    readers = {name: (n.op_type, i) for n in model.graph.node for i, name in enumerate(n.input)}
    made = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    filled.ir_version = 8
    del filled.graph.node[:], filled.graph.input[:]
    filled.graph.node.extend(node for node in model.graph.node if node not in made)
    filled.graph.input.extend(v for v in model.graph.input if v.name not in shapes)
    for node in made:
        shape, reader = shapes[node.input[0]], readers.get(node.output[0])
        if len(shape) > 1:
            array = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif reader in (("BatchNormalization", 2), ("BatchNormalization", 3), ("Conv", 2)):
            array = random.standard_normal(shape) * 0.3
        else:
            array = random.uniform(0.5, 1.5, shape)
        filled.graph.initializer.append(
            onnx.numpy_helper.from_array(array.astype(np.float32), node.output[0])
        )
    return filled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("densenet121", 59),
        ("inception_v1", 0),
        ("inception_v2", 69),
        ("resnet50", 53),
        ("shufflenet", 49),
        ("squeezenet", 0),
    ],
)
def test_every_pass_keeps_what_the_light_models_compute_with_weights(
    name: str, folded: int
) -> None:
    proto = with_weights(onnx.load(LIGHT / f"light_{name}.onnx"))
    model = ir.from_proto(proto)
    inputs = {proto.graph.input[0].name: ramp(proto)}
    report = optimize(model, batch_norm="threshold", inputs=inputs)
    steps = {step.name: step.changed for step in report.steps}
    assert steps["fold-batch-norm"] == folded
    assert "BatchNormalization" not in {node.op_type for node in model.graph}
    assert report.max_error is not None
    assert report.max_error < 1e-5


class NegateRelus(ir.passes.InPlacePass):
    """A wrong pass."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [node for node in model.graph if node.op_type == "Relu"]
        for node in found:
            node.op_type = "Neg"
        return ir.passes.PassResult(model, modified=bool(found))


def test_a_wrong_pass_breaks_a_case() -> None:
    cases = (case for case in node_cases() if case.name == "test_relu")
    assert broken(cases, {"negate": NegateRelus})[0] == ["test_relu: negate"]
