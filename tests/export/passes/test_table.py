from __future__ import annotations

import re

import onnx_ir as ir
import pytest

from edgekit.export.passes.table import PASSES


@pytest.mark.parametrize("name", PASSES)
def test_each_pass_has_a_hyphenated_name_and_a_summary_of_one_line(name: str) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", name)
    assert 0 < len(PASSES[name].summary) <= 80
    assert "\n" not in PASSES[name].summary


def test_the_passes_compose_with_those_of_onnx_ir(text_graph) -> None:
    model = text_graph("g (float[2] x) => (float[2] y) { i = Identity(x) y = Neg(i) z = Abs(i) }")
    together = ir.passes.Sequential(*(entry.factory() for entry in PASSES.values()))
    assert together(model).modified
    assert [node.op_type for node in model.graph] == ["Neg"]
