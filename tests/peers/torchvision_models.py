"""torchvision's models as ONNX files, with weights and statistics as if trained.

Fresh models have normalizations that do nothing; here their numbers are drawn: scales of 0.5 to
1.5, shifts and means around zero, variances of 0.5 to 2.
"""

from __future__ import annotations

from pathlib import Path

import torch

from edgekit.export.quiet import quiet
from edgekit.train.vision import torchvision


def exported(name: str, folder: Path) -> Path:
    """The file of a model for one image of 224x224, as torch's exporter makes it; made once."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        module = torchvision.models.get_model(name, weights=None).eval()
        draw_statistics(module)
        with quiet():
            torch.onnx.export(
                module,
                (torch.zeros(1, 3, 224, 224),),
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    return path


def draw_statistics(module: torch.nn.Module) -> None:
    """Give each normalization numbers as training does."""
    for child in module.modules():
        if isinstance(child, torch.nn.BatchNorm2d):
            with torch.no_grad():
                child.weight.uniform_(0.5, 1.5)
                child.bias.normal_(0, 0.3)
                child.running_mean.normal_(0, 0.5)
                child.running_var.uniform_(0.5, 2)
