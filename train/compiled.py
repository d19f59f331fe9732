"""A network that runs compiled, and eagerly where compiling fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo.config
import torch._functorch.config
from torch import Tensor, nn

Backend = Callable[..., Callable[..., Any]]

_LOGGER = logging.getLogger(__name__)

# Training and evaluation, each at every batch shape and with and without fake quantization.
_VARIANTS = 64


class CompiledNetwork:
    """Calls a network through torch.compile.

    The first time that compiling fails (no C++ compiler, a cache that cannot be written), one line
    says so and the network runs eagerly from then on. What is wrong with the network itself, or
    with its input, fails eagerly as well, and is raised from there.

    It is no nn.Module, so that nothing in the network's state is named after it.

    Args:
        network: What to call; its parameters stay its own.
        compile: Whether to compile at all.
        backend: Of torch.compile.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        compile: bool,  # noqa: A002 -- as torch calls it
        backend: str | Backend = "inductor",
    ) -> None:
        self.network = network
        self._compiled = None
        if compile:
            # Every batch shape by itself: a dynamic one makes slower code.
            self._compiled = torch.compile(network, dynamic=False, backend=backend)

    @property
    def is_compiled(self) -> bool:
        """Whether the next call goes through torch.compile."""
        return self._compiled is not None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits [B, classes] of inputs [B, C, H, W]."""
        if self._compiled is None:
            logits: Tensor = self.network(inputs)
            return logits
        try:
            with (
                torch._dynamo.config.patch(recompile_limit=_VARIANTS),
                # Else the backward pass is compiled, and fails, where nobody can take it back.
                torch._functorch.config.patch(force_non_lazy_backward_lowering=True),
            ):
                logits = self._compiled(inputs)
        except Exception as error:  # whatever compilers and their caches meet
            self._compiled = None
            logits = self.network(inputs)
            _LOGGER.warning(
                "torch.compile fails (%s); training without it, which is slower", _reason(error)
            )
        return logits


def _reason(error: BaseException) -> str:
    """The first line of what went wrong at the bottom."""
    while (cause := getattr(error, "inner_exception", None) or error.__cause__) is not None:
        error = cause
    lines = (line.strip() for line in str(error).splitlines())
    text = next((line for line in lines if line), type(error).__name__)
    return text if len(text) <= 200 else text[:197] + "..."
