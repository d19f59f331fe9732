from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = """
name = "resumed"
[data]
name = "digits"
validation = 0.1
[model]
name = "densenet"
order = "post"
blocks = [1, 1]
growth = 4
bottleneck = 0
stem_width = 8
dropout = 0.1
[train]
epochs = 5
batch_size = 64
ema = 0.9
warmup_epochs = 1
[augment]
crop = 1
rotation = 5
color_jitter = 0.1
cutout = 2
mixup = 0.2
cutmix = 1.0
[prune]
sparsity = 0.5
every_steps = 3
[prune_channels]
ratio = 0.3
fine_tune_epochs = 3
[quantize]
weight_bits = 4
"""
CODE = """
import sys
from pathlib import Path
from edgekit.train.recipe import load_recipe
from edgekit.train.run import run_recipe
run_recipe(load_recipe(sys.argv[1]), Path(sys.argv[2]), accelerator="cpu")
"""
TIMEOUT = 120.0


def start(folder: Path) -> subprocess.Popen[bytes]:
    recipe = folder.parent / f"{folder.name}.toml"
    recipe.write_text(RECIPE)
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(recipe), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def result(process: subprocess.Popen[bytes], folder: Path) -> bytes:
    assert process.wait(TIMEOUT) == 0
    return (folder / "model.safetensors").read_bytes()


def kill_after(folder: Path, metrics: str, epochs: int) -> None:
    """Start, and send SIGKILL somewhere in the epoch that follows so many finished ones."""
    process = start(folder)
    deadline = time.monotonic() + TIMEOUT
    path = folder / metrics
    while not path.exists() or len(path.read_text().splitlines()) <= epochs:
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() < 0


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(tmp_path: Path) -> None:
    uninterrupted = start(tmp_path / "whole")
    killed = tmp_path / "killed"
    kill_after(killed, "metrics.csv", 2)
    assert not (killed / "trained.safetensors").exists()
    kill_after(killed, "fine-tune/metrics.csv", 1)
    assert (killed / "trained.safetensors").exists()
    assert not (killed / "model.safetensors").exists()
    whole = result(uninterrupted, tmp_path / "whole")
    assert result(start(killed), killed) == whole
    assert (killed / "trained.safetensors").read_bytes() != whole
