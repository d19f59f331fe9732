"""edgekit's counts beside torchvision's published ones, torch's own counter and onnx-tool.

`python tests/peers/counting_table.py` prints the whole table, which docs/counting.md shows.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import onnx_ir as ir
import pytest

from edgekit.bench.count import count

pytest.importorskip("torch")


def load_table() -> ModuleType:
    path = Path(__file__).with_name("counting_table.py")
    specification = importlib.util.spec_from_file_location("counting_table", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up there
    specification.loader.exec_module(module)
    return module


table = load_table()
# What both count; all that onnx-tool counts besides is no product of a convolution or matrix.
PRODUCTS = ("Conv", "Gemm", "MatMul")
LARGEST_BIAS_SHARE = 0.03  # it adds a bias's additions to the products
# Proved by the script alone, to keep the tests quick.
LARGE = {"alexnet", "convnext_tiny", "densenet169", "efficientnet_b1", "vgg11", "vit_b_32"}
QUICK = [name for name in table.MODELS if name not in LARGE]


@pytest.mark.parametrize("name", QUICK)
def test_published_operations_agree_to_three_decimals(name: str) -> None:
    given = table.subject(name)
    by_torch = table.torch_macs(given)
    counts = table.edgekit_counts(table.to_onnx(given))
    assert round(counts.macs / 1e9, 3) == given.published
    assert counts.macs == by_torch
    assert counts.uncounted_ops == ()


def test_as_many_models_as_were_promised() -> None:
    assert len(set(QUICK)) >= 20


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_onnx_tool_counts_the_same_products(name: str) -> None:
    pytest.importorskip("onnx_tool")
    model = table.to_onnx(table.subject(name))
    other = table.onnx_tool_macs(model)
    ours: Counter[str] = Counter()
    for node in table.edgekit_counts(model).nodes:
        ours[node.op_type] += node.macs
    assert other is not None
    for op_type in PRODUCTS:
        if ours[op_type]:
            more = other.get(op_type, 0) / ours[op_type] - 1
            assert 0 <= more < LARGEST_BIAS_SHARE
    assert all(not ours[op_type] for op_type in ours if op_type not in PRODUCTS)


def test_a_count_without_the_depthwise_products_is_seen() -> None:
    given = table.subject("mobilenet_v3_small")
    model = ir.from_proto(table.to_onnx(given))
    deep = [n for n in count(model).nodes if n.op_type == "Conv" and n.params < 5000]
    left = count(model).macs - sum(node.macs for node in deep)
    assert round(left / 1e9, 3) != given.published


def test_the_table_shows_a_model_per_row() -> None:
    pytest.importorskip("onnx_tool")
    lines = list(table.table(["squeezenet1_1"]))
    assert len(lines) == 3
    assert lines[2].startswith("| squeezenet1_1 | 0.349 | 349,151,936 | the same | ")
