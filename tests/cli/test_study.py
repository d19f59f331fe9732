"""`edgekit study`: variants trained, converted and compared; resumed, shared and refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Edgekit

torch = pytest.importorskip("torch")
filelock = pytest.importorskip("filelock")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from edgekit.runtime.preprocessing import Preprocessing  # noqa: E402 -- needs torch
from edgekit.train.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from edgekit.train.models.table import build_model  # noqa: E402
from edgekit.train.recipe import parse_recipe  # noqa: E402
from edgekit.train.study import load_study  # noqa: E402

BASE = """
name = "base"

[data]
name = "digits"
validation = 0.2

[model]
name = "densenet"
order = "post"
blocks = [2]
growth = 4
bottleneck = 1
stem_width = 8

[train]
epochs = 1
batch_size = 64
learning_rate = 0.05
"""

STUDY = """
name = "small"
base = "base.toml"
seeds = [0, 1]

[[variant]]
group = "order"
name = "post"
precisions = ["fp32", "int8"]

[[variant]]
group = "order"
name = "pre"
set.model.order = "pre"

[[variant]]
group = "augmentation"
name = "none"

[[variant]]
group = "network"
name = "resnet"
seeds = [0]
set.model = { name = "resnet", widths = [8, 16], stem_width = 8 }
"""

ONE_VARIANT = """
[[variant]]
group = "order"
name = "post"
"""


BEGUN = """
precisions = ["fp32"]
set.train.start = "start.safetensors"
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "base.toml").write_text(BASE)
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


def test_study_trains_each_recipe_once_and_compares_the_variants(
    edgekit: Edgekit, study: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    first = edgekit("study", study, "-o", runs, "--format", "json")
    assert first.status == 0, first.err
    result = json.loads(first.out)
    folders = sorted(path.name for path in runs.iterdir() if path.is_dir())
    assert [folder.rpartition("-")[0] for folder in folders] == [
        "network-resnet-0",
        *("order-post-0", "order-post-1"),
        *("order-pre-0", "order-pre-1"),
    ]
    with (runs / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_variant = {(row["group"], row["variant"], row["precision"]) for row in rows}
    assert ("augmentation", "none", "int8") in by_variant
    assert ("order", "post", "fp32") in by_variant
    assert ("augmentation", "none", "fp32") not in by_variant  # it shares the training alone
    found = {(s["group"], s["variant"], s["precision"]): s for s in result["summaries"]}
    shared = found["order", "post", "int8"], found["augmentation", "none", "int8"]
    assert shared[0]["top1"] == shared[1]["top1"] == pytest.approx(mean_top1(rows, "post"))
    assert shared[0]["seeds"] == 2
    assert shared[0]["deviation"] is not None
    assert found["network", "resnet", "int8"]["deviation"] is None
    assert found["order", "post", "int8"]["imt"] < found["order", "post", "fp32"]["imt"]

    assert (runs / "summary.md").read_text().count("| order |") == 3
    assert (runs / "front.png").read_bytes().startswith(b"\x89PNG")

    # What results.csv knows is not trained again, whatever became of the runs; the rest is.
    for folder in folders:
        shutil.rmtree(runs / folder)
    lines = (runs / "results.csv").read_text().splitlines()
    (runs / "results.csv").write_text("\n".join(x for x in lines if "resnet" not in x))
    again = edgekit("study", study, "-o", runs, "--format", "json")
    assert again.status == 0, again.err
    assert [path.name for path in runs.iterdir() if path.is_dir()] == [folders[0]]
    assert again.err.count("resnet") == 1
    assert "order" not in again.err
    assert json.loads(again.out)["summaries"] == result["summaries"]


def test_a_network_that_began_elsewhere_is_measured_on_images_as_it_takes_them(
    edgekit: Edgekit, study: Path, tmp_path: Path
) -> None:
    recipe = parse_recipe(BASE, origin="base")
    options = recipe.model_options
    network = build_model("densenet", options, in_channels=1, num_classes=10)
    dark = Preprocessing(8, 8, (0.9,), (0.05,), tuple("0123456789"))
    start = Checkpoint("densenet", options, 1, 10, dark, "bright", "", network.state_dict())
    save_checkpoint(start, tmp_path / "start.safetensors")
    only = ONE_VARIANT.replace('"post"', '"begun"') + BEGUN
    study.write_text(STUDY[: STUDY.index("[[variant]]")] + only)
    assert edgekit("study", study, "-o", tmp_path / "runs").status == 0
    with (tmp_path / "runs" / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["precision"] == "fp32"]
    assert len(rows) == 2
    for row in rows:
        (run,) = (tmp_path / "runs").glob(f"order-begun-{row['seed']}-*")
        accuracy = json.loads((run / "summary.json").read_text())["last_accuracy"]
        assert int(row["correct"]) / int(row["total"]) == pytest.approx(accuracy)


def test_training_and_measuring_both_know_where_downloads_go(
    edgekit: Edgekit, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(name: str, folder: Path | None) -> Path | None:
        asked.append(name)
        return folder

    monkeypatch.setattr("edgekit.train.training_data.download_data", fetch)
    study.write_text(STUDY[: STUDY.index("[[variant]]")].replace("[0, 1]", "[0]") + ONE_VARIANT)
    result = edgekit("study", study, "-o", tmp_path / "runs", "--download")
    assert result.status == 0, result.err
    assert asked == ["digits", "digits"]


def test_processes_share_the_trainings_of_a_study(
    edgekit: Edgekit, study: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    study.write_text(STUDY.replace("seeds = [0, 1]", "seeds = [0]"))
    runs.mkdir()
    pre = next(t.folder for t in load_study(study).trainings if "order-pre-0" in t.folder)
    with filelock.FileLock(runs / f".{pre}.lock"):  # as a process that trains it holds it
        first = edgekit("study", study, "-o", runs)
    assert first.status == 0, first.err
    assert f"at work in other processes: {pre};" in first.err
    assert not (runs / pre).exists()
    before = (runs / "results.csv").read_text()
    assert "order,pre," not in before
    again = edgekit("study", study, "-o", runs)
    assert again.status == 0, again.err
    assert "3/3" not in again.err
    assert "2/3  order-pre-0" in again.err
    assert "other processes" not in again.err
    after = (runs / "results.csv").read_text().splitlines()
    assert set(before.splitlines()) < set(after)


def test_an_edited_variant_is_trained_again(edgekit: Edgekit, study: Path, tmp_path: Path) -> None:
    for epochs in (1, 2):
        text = STUDY[: STUDY.index("[[variant]]")].replace("[0, 1]", "[0]") + ONE_VARIANT
        study.write_text(text + f"set.train.epochs = {epochs}\n")
        outcome = edgekit("study", study, "-o", tmp_path / "runs")
        assert outcome.status == 0, outcome.err


def test_results_of_a_precision_that_was_taken_out_stay(
    edgekit: Edgekit, study: Path, tmp_path: Path
) -> None:
    results = tmp_path / "runs" / "results.csv"
    text = STUDY[: STUDY.index("[[variant]]")].replace("[0, 1]", "[0]") + ONE_VARIANT
    for precisions in ('["fp32", "int8"]', '["fp32"]'):
        study.write_text(text + f"precisions = {precisions}\n")
        assert edgekit("study", study, "-o", tmp_path / "runs").status == 0
        assert [line.count(",int8,") for line in results.read_text().splitlines()] == [0, 0, 1]


def test_a_variant_that_diverges_does_not_stop_the_others(
    edgekit: Edgekit, study: Path, tmp_path: Path
) -> None:
    text = STUDY[: STUDY.index("[[variant]]")].replace("[0, 1]", "[0]")
    diverging = ONE_VARIANT.replace("post", "wild") + "set.train.learning_rate = 1e30\n"
    study.write_text(text + diverging + ONE_VARIANT)
    outcome = edgekit("study", study, "-o", tmp_path / "runs", "--format", "json")
    assert outcome.status == 1
    result = json.loads(outcome.out)
    assert [row["variant"] for row in result["rows"]] == ["post"]
    assert result["elsewhere"] == []
    (folder,) = result["failures"]
    assert folder.startswith("order-wild-0-")
    assert outcome.err.splitlines()[-1].startswith(f"failed: {folder}: the loss is ")


def test_a_folder_with_such_files_of_something_else_is_refused_and_kept(
    refuses: Edgekit, study: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.md").write_text("mine")
    outcome = refuses("study", study, "-o", tmp_path / "out")
    assert "is no study's" in outcome.err
    assert (tmp_path / "out" / "summary.md").read_text() == "mine"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_study_whose_folder_cannot_be_made_is_refused(
    edgekit: Edgekit, study: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    outcome = edgekit("study", study, "-o", tmp_path / "file" / "runs")
    assert outcome.status == 2
    assert outcome.err.startswith(f"edgekit: {tmp_path / 'file' / 'runs'}: ")
    assert outcome.err.count("\n") == 1


def test_damaged_results_are_told_and_kept(edgekit: Edgekit, study: Path, tmp_path: Path) -> None:
    results = tmp_path / "runs" / "results.csv"
    results.parent.mkdir()
    results.write_text("recipe,group\nabc,order\n")
    outcome = edgekit("study", study, "-o", results.parent)
    assert outcome.status == 2
    assert "results.csv: is damaged; restore it" in outcome.err
    assert results.read_text().startswith("recipe,group")


def mean_top1(rows: list[dict[str, str]], variant: str) -> float:
    found = [
        int(row["correct"]) / int(row["total"])
        for row in rows
        if (row["group"], row["variant"], row["precision"]) == ("order", variant, "int8")
    ]
    assert len(found) == 2
    return sum(found) / 2


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('base = "base.toml"', 'base = "gone"', "no such recipe"),
        ("seeds = [0, 1]", "seeds = []", "at least one"),
        ("seeds = [0, 1]", "seeds = [0, 1, 0]", "seeds: 0 stands twice"),
        ("seeds = [0]", "seeds = [3, 3]", "variant[3].seeds: 3 stands twice"),
        ('"fp32", "int8"', '"int8", "int8"', "variant[0].precisions: 'int8' stands twice"),
        ('set.model.order = "pre"', 'set.model.order = "up"', "variant 'pre' of 'order'"),
        ('set.model.order = "pre"', 'sets.model.order = "pre"', "variant[1].sets: unknown"),
        ('name = "pre"', 'name = "post"', "stands twice"),
        ('name = "pre"', 'name = "../pre"', "names folders"),
        ('name = "small"', 'name = "../small"', "name: '../small' names folders"),
        ('precisions = ["fp32", "int8"]', 'precisions = ["int3"]', "'int3' is none"),
        ("[[variant]]\ngroup", "[[variants]]\ngroup", "variants: unknown"),
        ("seeds = [0, 1]", "seeds = [0, 1", "not valid TOML"),
    ],
)
def test_a_wrong_study_is_refused_before_any_training(
    edgekit: Edgekit, study: Path, tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert old in STUDY
    study.write_text(STUDY.replace(old, new))
    outcome = edgekit("study", study, "-o", tmp_path / "runs")
    assert outcome.status == 2
    assert told in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_study_that_is_not_there_is_told_with_the_shipped_ones(edgekit: Edgekit) -> None:
    outcome = edgekit("study", "ablation")
    assert outcome.status == 2
    assert "ablation-cifar10" in outcome.err
