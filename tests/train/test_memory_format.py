from __future__ import annotations

import os
import subprocess
import sys

import pytest
from torch import nn

from edgekit.train.memory_format import overrunning_layer
from edgekit.train.models.table import build_model

TRAIN = """
import logging, sys
from pathlib import Path
from edgekit.train.recipe import parse_recipe
from edgekit.train.run import run_recipe
logging.basicConfig()
run_recipe(parse_recipe(sys.argv[1], origin="r"), Path(sys.argv[2]), accelerator="cpu")
"""
RECIPE = """
name = "narrow"
[data]
name = "digits"
[model]
name = "resnet"
widths = [6, 12]
stem_width = 6
[train]
epochs = 1
batch_size = 64
channels_last = true
"""


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"widths": [6, 12], "stem_width": 6}, "stages.1.0.shortcut.conv"),
        ({"widths": [6, 12], "stem_width": 16, "stem_kernel": 1, "stem_stride": 2}, "stem.conv"),
        ({"widths": [16, 12], "stem_width": 6}, None),
    ],
)
def test_narrow_pointwise_convolutions_with_a_stride_are_found(
    options: dict[str, object], name: str | None
) -> None:
    module = build_model("resnet", options, in_channels=3, num_classes=10)
    assert overrunning_layer(module) == name
    assert overrunning_layer(nn.Conv2d(6, 12, 3, stride=2)) is None


def test_a_narrow_network_trains_without_channels_last_and_a_line_says_so(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, RECIPE, f"{tmp_path}/run"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "fail at stages.1.0.shortcut.conv, a 1x1 convolution" in done.stderr
