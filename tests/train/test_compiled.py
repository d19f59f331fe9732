from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from edgekit.train.compiled import CompiledNetwork


def refuse(*_: object) -> Callable[..., Tensor]:
    raise RuntimeError("no C++ compiler\nand a long story")


def keep(graph: torch.fx.GraphModule, _: object) -> Callable[..., Tensor]:
    return make_boxed_func(graph.forward)  # type: ignore[no-any-return]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def test_a_compiled_network_gives_what_the_network_gives() -> None:
    module, images = network(), torch.randn(5, 1, 2, 2)
    calls = CompiledNetwork(module, compile=True, backend="aot_eager")
    torch.testing.assert_close(calls(images), module(images))
    assert calls.is_compiled
    assert not CompiledNetwork(module, compile=False).is_compiled


@pytest.mark.parametrize("backend", [refuse, aot_autograd(fw_compiler=keep, bw_compiler=refuse)])
def test_where_compiling_fails_one_line_says_so_and_training_goes_on(
    backend: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    module, images = network(), torch.randn(5, 1, 2, 2)
    calls = CompiledNetwork(module, compile=True, backend=backend)
    with caplog.at_level(logging.WARNING, logger="edgekit"):
        found = [calls(images), calls(images)]
    for logits in found:
        torch.testing.assert_close(logits, module(images))
        logits.sum().backward()
    assert not calls.is_compiled
    ours = [record for record in caplog.records if record.name.startswith("edgekit")]
    assert [record.getMessage() for record in ours] == [
        "torch.compile fails (no C++ compiler); training without it, which is slower"
    ]


def test_what_is_wrong_with_the_network_itself_is_raised() -> None:
    calls = CompiledNetwork(network(), compile=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"mat1 and mat2 shapes cannot be multiplied"):
        calls(torch.randn(5, 1, 3, 3))
