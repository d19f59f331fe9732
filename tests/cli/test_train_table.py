from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.commands.train import TrainResult
from edgekit.options import Format
from edgekit.tables_training import print_run
from edgekit.train.prune_channels import ChannelPruning, LayerCut
from edgekit.train.run_folder import RunResult

CUT = ChannelPruning(
    layers=(LayerCut("stem.conv", 24, 12), LayerCut("blocks.0.conv", 16, 9)),
    skipped=("blocks.1.conv: it stays",),
    params_before=1234,
    params_after=567,
    macs_before=89000,
    macs_after=4321,
)


def result(cut: ChannelPruning | None) -> TrainResult:
    run = RunResult(Path("model.safetensors"), 0.5, 0.6, 100.0, 2.0, cut)
    return TrainResult(run, {"devices": 1, "accelerator": "auto", "data_dir": None})


def test_cut_channels_are_shown_below_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    print_run(result(CUT), Format.TABLE)
    shown = capsys.readouterr().out
    assert "setting accelerator" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["stem.conv", "24", "12"] in rows
    assert ["blocks.0.conv", "16", "9"] in rows
    assert "1,234 -> 567" in shown
    assert "Not cut: blocks.1.conv" in shown
    print_run(result(None), Format.TABLE)
    assert "stem.conv" not in capsys.readouterr().out


def test_cut_channels_are_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_run(result(CUT), Format.JSON)
    told = json.loads(capsys.readouterr().out)
    assert told["run"]["channel_pruning"]["layers"][1] == {
        "name": "blocks.0.conv",
        "before": 16,
        "after": 9,
    }
    assert told["settings"]["devices"] == 1
