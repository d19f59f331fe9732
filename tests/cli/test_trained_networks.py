"""The trained networks that come with edgekit keep what docs/cifar10.md says of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Edgekit

pytest.importorskip("torch")

from edgekit.train.checkpoint import load_checkpoint
from edgekit.train.recipe import load_recipe, parse_recipe
from edgekit.train.trained import find_checkpoint, shipped_checkpoints

# Least top-1, most non-zero parameters, most MACs, highest score of the packed int8 file.
CLAIMS = {
    "densenet-cifar10": (0.901, 54_100, 11.7e6, 0.013),
    "densenet-cifar10-4bit": (0.8982, 52_400, 11.7e6, 0.013),
    "densenet-cifar10-tiny": (0.903, 72_200, 5.4e6, 0.0082),
}


def test_the_trained_networks_are_those_that_are_promised() -> None:
    assert set(shipped_checkpoints()) == set(CLAIMS)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_trained_network_is_what_its_recipe_makes(name: str) -> None:
    checkpoint = load_checkpoint(find_checkpoint(Path(name)))
    assert parse_recipe(checkpoint.recipe, origin=name) == load_recipe(name)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_trained_network_is_exported_without_its_data(
    edgekit: Edgekit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("EDGEKIT_DATA", raising=False)
    outcome = edgekit("export", name, "-o", tmp_path / "m.onnx", "--format", "json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["data"] == "random pixels"
    assert "random pixels" in outcome.err
    # A data set that is asked for and not there is an error all the same.
    for asked in (("--data", "cifar10"), ("--data-dir", tmp_path)):
        refused = edgekit("export", name, *asked, "-o", tmp_path / "n.onnx")
        assert refused.status == 2
        assert "cifar10" in refused.err
        assert not (tmp_path / "n.onnx").exists()


@pytest.mark.skipif("EDGEKIT_DATA" not in os.environ, reason="EDGEKIT_DATA is not set")
@pytest.mark.parametrize("name", CLAIMS)
def test_a_trained_network_keeps_its_promises_as_a_packed_int8_file(
    edgekit: Edgekit, tmp_path: Path, name: str
) -> None:
    top1, nonzero, macs, score = CLAIMS[name]
    exported, quantized = tmp_path / "m.onnx", tmp_path / "m.int8.onnx"
    assert edgekit("export", name, "-o", exported).status == 0
    options = ("--calib", "cifar10", "--kernels", "keep", "--pack")
    assert edgekit("quantize", exported, *options, "-o", quantized).status == 0
    outcome = edgekit(
        "bench", exported, quantized, "--data", "cifar10", "--iterations", 1, "--format", "json"
    )
    assert outcome.status == 0, outcome.err
    whole, small = json.loads(outcome.out)["models"]
    assert small["accuracy"]["top1"] >= top1
    assert whole["accuracy"]["top1"] - small["accuracy"]["top1"] <= 0.003
    assert small["params"]["nonzero"] <= nonzero
    assert small["macs"]["dense"] <= macs
    assert small["score"]["imt"] <= score
