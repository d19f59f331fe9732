"""`edgekit optimize` names the pass that is wrong; `--no-verify` believes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from edgekit.export.passes.table import PASSES, PassEntry

Command = Callable[..., Any]


class DropRelus(ir.passes.InPlacePass):
    """A wrong pass."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [node for node in model.graph if node.op_type == "Relu"]
        for node in found:
            node.op_type = "Identity"
        return ir.passes.PassResult(model, modified=bool(found))


@pytest.fixture
def wrong_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES, "drop-relus", PassEntry(DropRelus, "for the test"))


@pytest.mark.usefixtures("wrong_pass")
def test_a_wrong_pass_is_named_with_its_error_and_nothing_is_written(
    edgekit: Command, model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    outcome = edgekit("optimize", model, "-o", output)
    assert outcome.status == 1
    message = " ".join(outcome.err.split())
    assert "pass drop-relus (after fold-constants, " in message
    assert "changed the model's outputs by 0." in message
    assert "more than 2e-05" in message
    assert not output.exists()


@pytest.mark.usefixtures("wrong_pass")
def test_without_verification_the_wrong_pass_is_believed(
    edgekit: Command, model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    assert edgekit("optimize", model, "-o", output, "--no-verify").status == 0
    assert "Relu" not in {node.op_type for node in onnx.load(output).graph.node}
