"""What identifies a file."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import pytest

from edgekit.bench.inspect_model import inspect_model

TEXT = """
<ir_version: 8, opset_import: ["DOMAIN" : 17]>
net (float[n, 4] x) => (float[n, 4] y) { y = Relu (x) }
"""


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_the_operator_set_is_found_under_either_name(tmp_path: Path, domain: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(TEXT.replace("DOMAIN", domain)).SerializeToString())
    assert inspect_model(path).to_json()["opset"] == 17
