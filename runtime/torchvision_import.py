"""torchvision, importable also beside a torch that its compiled extension does not match.

torchvision from PyPI is built for CUDA. Beside a CPU-only torch its extension does not load, and
the import then fails on describing operators (`nms`) that nobody declared. Their schemas alone let
the import through; all that edgekit takes from torchvision is written in Python.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from edgekit.runtime.errors import MissingExtraError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# Declarations must live as long as the module that needs them.
_declarations: list[Any] = []


def import_torchvision() -> ModuleType:
    """The package, imported here for the first time or not.

    Raises:
        MissingExtraError: torch or torchvision is not installed.
    """
    try:
        import torch

        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torchvision", "train") from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    declarations = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        declarations.define(schema)  # type: ignore[no-untyped-call]
    _declarations.append(declarations)
    return importlib.import_module("torchvision")
