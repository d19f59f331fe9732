from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgekit.runtime.data.load import load_split
from edgekit.runtime.errors import (
    CheckpointError,
    DataError,
    InputError,
    OutputError,
    RecipeError,
    TrainingError,
)
from edgekit.train import batches, fit, optim
from edgekit.train.checkpoint import load_checkpoint
from edgekit.train.prune_weights import sparsity_of
from edgekit.train.recipe import Recipe, load_recipe, parse_recipe
from edgekit.train.run import RunResult, run_recipe
from edgekit.train.run_folder import claimed

TINY = """
name = "tiny"
[data]
name = "digits"
validation = 0.2
[model]
name = "densenet"
order = "post"
blocks = [1]
growth = 8
bottleneck = 0
stem_width = 8
[train]
epochs = 2
batch_size = 64
learning_rate = 0.05
"""


def recipe(extra: str = "", **replaced: str) -> Recipe:
    text = TINY
    for key, value in replaced.items():
        lines = [f"{key} = {value}" if x.startswith(f"{key} =") else x for x in text.splitlines()]
        text = "\n".join(lines) + "\n"
    return parse_recipe(text + extra, origin="tiny.toml")


def metrics(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mixed(precision: str) -> str:
    return f'precision = "{precision}"\nchannels_last = true\ngradient_clip = 1.0\n'


def same_weights(one: RunResult, other: RunResult) -> bool:
    states = [load_checkpoint(result.checkpoint).state for result in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def accuracy_of(path: Path, part: str = "validation") -> float:
    checkpoint = load_checkpoint(path)
    split = load_split("digits", part, validation=0.2 if part == "validation" else 0.0)
    inputs = torch.from_numpy(checkpoint.preprocessing(split.images.read(np.arange(len(split)))))
    with torch.no_grad():
        predictions = checkpoint.build()(inputs).argmax(1).numpy()
    return float((predictions == split.labels).mean())


def test_a_run_folder_holds_all_that_the_run_made(tmp_path: Path) -> None:
    mine = recipe(epochs="4", learning_rate="0.3")
    result = run_recipe(mine, tmp_path / "run", progress=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "last.ckpt",
        "metrics.csv",
        "model.safetensors",
        "recipe.toml",
        "summary.json",
        "tensorboard",
    ]
    rows = metrics(tmp_path / "run" / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert result.last_accuracy == float(rows[-1]["validation_accuracy"])
    assert result.best_accuracy == max(float(row["validation_accuracy"]) for row in rows)
    assert result.last_accuracy is not None
    assert 0.3 < result.last_accuracy == pytest.approx(accuracy_of(result.checkpoint))
    assert result.images_per_second > 0
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    checkpoint = load_checkpoint(result.checkpoint)
    assert checkpoint.architecture == "densenet"
    assert checkpoint.data == "digits"
    assert checkpoint.recipe == mine.text
    assert checkpoint.preprocessing.class_names == tuple("0123456789")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seconds"] > 0


@pytest.mark.parametrize("variable", ["SLURM_PROCID", "RANK", "LOCAL_RANK"])
def test_a_process_by_itself_saves_its_network_whatever_its_number(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    result = run_recipe(recipe(epochs="1"), tmp_path / "run", progress=False)
    assert load_checkpoint(result.checkpoint).architecture == "densenet"
    assert (tmp_path / "run" / "summary.json").is_file()


def test_images_too_small_for_the_networks_are_refused(tmp_path: Path) -> None:
    images, labels = np.zeros((20, 7, 9), np.uint8), np.arange(20) % 2
    images[::2] = 255
    np.savez(tmp_path / "small.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    small = parse_recipe(TINY.replace('"digits"', f'"{tmp_path / "small.npz"}"'), origin="r.toml")
    with pytest.raises(DataError, match=r"images of 7x9 pixels; networks take 8 or more"):
        run_recipe(small, tmp_path / "run", progress=False)


def test_a_finished_run_is_left_alone_unless_forced(tmp_path: Path) -> None:
    first = run_recipe(recipe(), tmp_path, progress=False)
    content = first.checkpoint.read_bytes()
    assert not first.was_finished
    again = run_recipe(recipe(), tmp_path, progress=False)
    assert again == replace(first, was_finished=True)
    forced = run_recipe(recipe(seed=""), tmp_path, force=True, progress=False)
    assert not forced.was_finished
    assert forced.checkpoint.read_bytes() == content
    other = run_recipe(recipe(epochs="1"), tmp_path, force=True, progress=False)
    assert other.checkpoint.read_bytes() != content
    assert len(metrics(tmp_path / "metrics.csv")) == 1


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    run_recipe(recipe(epochs="1"), tmp_path / "run", progress=False)
    content = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="holds a run of another recipe"):
        run_recipe(recipe(epochs="3"), tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == content
    (tmp_path / "model.safetensors").write_bytes(b"another tool's")
    for force in (False, True):
        with pytest.raises(OutputError, match="holds other files"):
            run_recipe(recipe(), tmp_path, force=force, progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() == b"another tool's"
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is not a folder"):
        run_recipe(recipe(), tmp_path / "file", progress=False)


def test_a_run_on_other_data_of_the_same_recipe_is_refused_and_one_that_moved_is_not(
    tmp_path: Path,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (128, 8, 8, 1), np.uint8)
    labels = np.arange(128) % 2
    text = TINY.replace('"digits"', '"data.npz"').replace("epochs = 2", "epochs = 1")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        part = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
        np.savez(tmp_path / name / "data.npz", **part)
    run = tmp_path / "run"
    one, other = (parse_recipe(text, origin="r", folder=tmp_path / n) for n in ("one", "other"))
    run_recipe(one, run, progress=False)
    with pytest.raises(OutputError, match=r"a run whose data\.name is .*one/data.npz, not .*other"):
        run_recipe(other, run, progress=False)
    assert run_recipe(one, run, progress=False).was_finished
    (tmp_path / "one" / "data.npz").unlink()
    assert run_recipe(other, run, progress=False).was_finished


def test_averaged_pruned_weights_are_what_is_evaluated_and_saved(tmp_path: Path) -> None:
    extra = "ema = 0.9\n[prune]\nsparsity = 0.5\nevery_steps = 4\n[augment]\ncrop = 1\nmixup = 0.1"
    result = run_recipe(recipe(extra, epochs="4"), tmp_path, progress=False)
    assert result.last_accuracy == pytest.approx(accuracy_of(result.checkpoint))
    assert sparsity_of(load_checkpoint(result.checkpoint).build()) == pytest.approx(0.5, abs=1e-3)
    sparsities = [float(row["sparsity"]) for row in metrics(tmp_path / "metrics.csv")]
    assert sparsities == sorted(sparsities)
    assert 0 < sparsities[0] < sparsities[-1]


def test_channel_pruning_is_followed_by_fine_tuning(tmp_path: Path) -> None:
    extra = "[prune_channels]\nratio = 0.5\nfine_tune_epochs = 2\n"
    result = run_recipe(recipe(extra), tmp_path, progress=False)
    whole = load_checkpoint(tmp_path / "trained.safetensors").build()
    cut = load_checkpoint(result.checkpoint).build()
    sizes = [sum(p.numel() for p in module.parameters()) for module in (whole, cut)]
    assert sizes[1] < 0.7 * sizes[0]
    assert result.last_accuracy == pytest.approx(accuracy_of(result.checkpoint))
    rows = metrics(tmp_path / "fine-tune" / "metrics.csv")
    assert len(rows) == 2
    cut_report = result.channel_pruning
    assert cut_report is not None
    assert (cut_report.params_before, cut_report.params_after) == tuple(sizes)
    again = run_recipe(recipe(extra), tmp_path, progress=False)
    assert again == replace(result, was_finished=True)
    assert float(rows[0]["learning_rate"]) < 0.1 * 0.05 + 1e-9


def test_channel_pruning_that_removes_nothing_is_told_before_any_training(tmp_path: Path) -> None:
    extra = "[prune_channels]\nratio = 0.05\nfine_tune_epochs = 2\n"
    with pytest.raises(RecipeError, match=r"ratio 0\.05 removes nothing"):
        run_recipe(recipe(extra), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_channels_go_first_and_weights_on_the_way_of_the_fine_tuning(tmp_path: Path) -> None:
    extra = "[prune_channels]\nratio = 0.5\nfine_tune_epochs = 3\n[prune]\nsparsity = 0.5\n"
    result = run_recipe(recipe(extra + "every_steps = 2\n"), tmp_path, progress=False)
    whole = load_checkpoint(tmp_path / "trained.safetensors").build()
    assert sparsity_of(whole) == 0
    assert sparsity_of(load_checkpoint(result.checkpoint).build()) == pytest.approx(0.5, abs=5e-3)


def test_a_run_starts_from_a_checkpoint_and_keeps_its_zeros(tmp_path: Path) -> None:
    pruned = recipe("[prune]\nsparsity = 0.5\nevery_steps = 4\n", epochs="4", learning_rate="0.3")
    first = run_recipe(pruned, tmp_path / "first", progress=False)
    start = f'start = "{first.checkpoint}"\n'
    second = run_recipe(recipe(start), tmp_path / "second", progress=False)
    before, after = (load_checkpoint(run.checkpoint).state for run in (first, second))
    zeros = [name for name, tensor in before.items() if (tensor == 0).any() and tensor.ndim > 1]
    assert zeros
    for name in zeros:
        assert not after[name][before[name] == 0].any()
        assert not torch.equal(after[name], before[name])
    fresh = run_recipe(recipe(), tmp_path / "fresh", progress=False)
    losses = [metrics(run.checkpoint.parent / "metrics.csv")[0] for run in (second, fresh)]
    assert float(losses[0]["train_loss"]) < 0.9 * float(losses[1]["train_loss"])


def test_a_start_of_another_model_is_refused_before_the_folder_is_made(tmp_path: Path) -> None:
    first = run_recipe(recipe(epochs="1"), tmp_path / "first", progress=False)
    start = f'start = "{first.checkpoint}"\n'
    with pytest.raises(CheckpointError, match=r"model\.growth = 8, the recipe says 4"):
        run_recipe(recipe(start, growth="4"), tmp_path / "second", progress=False)
    other = TINY.replace('"densenet"', '"resnet"').split("order")[0] + "[train]\nepochs = 1\n"
    with pytest.raises(CheckpointError, match="holds a densenet, the recipe trains a resnet"):
        run_recipe(parse_recipe(other + start, origin="r"), tmp_path / "second", progress=False)
    folder = tmp_path / "images"
    for number in range(20):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[number % 2] / f"{number}.png")
    text = TINY.replace('"digits"', f'"{folder}"\nimage_size = [8, 8]\nchannels = 1') + start
    with pytest.raises(CheckpointError, match=r"knows the classes 10 \(0, 1.*data has 2 \(a, b\)"):
        run_recipe(parse_recipe(text, origin="r"), tmp_path / "second", progress=False)
    assert not (tmp_path / "second").exists()


def test_training_at_changing_resolutions_is_evaluated_at_full_size(tmp_path: Path) -> None:
    sizes = recipe("resolutions = [[1, 10], [3, 8]]\n", epochs="4", learning_rate="0.3")
    result = run_recipe(sizes, tmp_path / "sizes", progress=False)
    plain = run_recipe(recipe(epochs="4", learning_rate="0.3"), tmp_path / "plain", progress=False)
    mine, others = (metrics(run.checkpoint.parent / "metrics.csv") for run in (result, plain))
    assert mine[0]["train_loss"] == others[0]["train_loss"]
    assert mine[1]["train_loss"] != others[1]["train_loss"]
    assert result.last_accuracy == pytest.approx(accuracy_of(result.checkpoint))


def test_a_student_learns_from_a_checkpoint(tmp_path: Path) -> None:
    teacher = run_recipe(recipe(epochs="3"), tmp_path / "teacher", progress=False)
    extra = f'[distill]\nteacher = "{teacher.checkpoint}"\nweight = 1.0\n'
    taught = run_recipe(recipe(extra), tmp_path / "student", progress=False)
    alone = run_recipe(recipe(), tmp_path / "alone", progress=False)
    assert taught.checkpoint.read_bytes() != alone.checkpoint.read_bytes()
    assert "teacher" not in " ".join(load_checkpoint(taught.checkpoint).state)
    wrong = '[distill]\nteacher = "nowhere.safetensors"\n'
    with pytest.raises(CheckpointError, match="nowhere"):
        run_recipe(recipe(wrong), tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("able", [True, False])
def test_mixed_precision_trains_in_bfloat16_where_the_processor_can(
    tmp_path: Path,
    able: bool,
    precision: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit, "computes_bf16", lambda: able)
    result = run_recipe(recipe(mixed(precision)), tmp_path, accelerator="cpu", progress=False)
    assert ("16-mixed needs a GPU" in caplog.text) == (able and precision == "16-mixed")
    lacks = f"{precision}: this processor has no arithmetic for bfloat16"
    assert (lacks in caplog.text) != able
    caplog.clear()
    full = run_recipe(recipe(mixed("32-true")), tmp_path / "full", progress=False)
    assert same_weights(result, full) != able
    assert not caplog.text


@pytest.mark.parametrize("optimizer", list(optim.OPTIMIZERS))
@pytest.mark.parametrize("schedule", ["one-cycle", "none"])
def test_optimizers_and_schedules_train(tmp_path: Path, optimizer: str, schedule: str) -> None:
    extra = f'optimizer = "{optimizer}"\nschedule = "{schedule}"\n'
    result = run_recipe(recipe(extra, epochs="1", learning_rate="0.01"), tmp_path, progress=False)
    assert result.last_accuracy is not None


def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step(tmp_path: Path) -> None:
    steps = 'schedule = "step"\nmilestones = [1]\n'
    run_recipe(recipe(steps), tmp_path, progress=False)
    rates = [float(row["learning_rate"]) for row in metrics(tmp_path / "metrics.csv")]
    assert rates == pytest.approx([0.05, 0.005])


def test_nothing_held_out_means_no_accuracy(tmp_path: Path) -> None:
    result = run_recipe(recipe(validation="0.0", epochs="1"), tmp_path, progress=False)
    assert result.last_accuracy is None
    assert result.best_accuracy is None


def test_the_last_epoch_is_always_evaluated(tmp_path: Path) -> None:
    result = run_recipe(recipe("evaluate_every = 2\n", epochs="3"), tmp_path, progress=False)
    rows = metrics(tmp_path / "metrics.csv")
    assert [bool(row["validation_accuracy"]) for row in rows] == [False, True, True]
    assert result.last_accuracy == pytest.approx(accuracy_of(result.checkpoint))


def test_divergence_names_epoch_and_step_and_leaves_no_model(tmp_path: Path) -> None:
    broken = recipe('schedule = "none"\n', learning_rate="1e30")
    with pytest.raises(TrainingError, match=r"in epoch 1 at step \d+ of 16: lower"):
        run_recipe(broken, tmp_path, progress=False)
    assert not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "last.ckpt").exists()


def test_a_model_key_is_checked_before_the_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model.*growths"):
        run_recipe(recipe(growth="8\ngrowths = 3"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_batch_must_divide_among_devices(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.batch_size: 63 images .* among 2 devices"):
        run_recipe(recipe(batch_size="63"), tmp_path / "run", devices=2, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_batch_of_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="leaves a device one image"):
        run_recipe(recipe(batch_size="1"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(OutputError, match="another process trains there"):
        run_recipe(recipe(), tmp_path, progress=False)
    run_recipe(recipe(epochs="1"), tmp_path, progress=False)


def test_a_run_that_was_killed_before_its_recipe_was_there_begins(tmp_path: Path) -> None:
    (tmp_path / "inputs.json").write_text("{}")
    (tmp_path / "teacher-outputs").mkdir()
    (tmp_path / ".recipe.toml.x7").mkdir()
    assert run_recipe(recipe(epochs="1"), tmp_path, progress=False).checkpoint.is_file()


def test_devices_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot train on 1 x abacus .*") as caught:
        run_recipe(recipe(), tmp_path, accelerator="abacus", progress=False)
    assert "\n" not in str(caught.value)


def test_force_keeps_a_run_until_the_devices_are_known_to_be_there(tmp_path: Path) -> None:
    first = run_recipe(recipe(epochs="1"), tmp_path, progress=False)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="cannot train on 2 x abacus"):
        run_recipe(recipe(), tmp_path, force=True, accelerator="abacus", devices=2, progress=False)
    assert first.checkpoint in kept
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == kept


@pytest.mark.parametrize(
    "extra", ['start = "{}"\n', '[distill]\nteacher = "{}"\n'], ids=["start", "teacher"]
)
def test_force_deletes_no_input_of_the_recipe(tmp_path: Path, extra: str) -> None:
    first = run_recipe(recipe(epochs="1"), tmp_path / "run", progress=False)
    content = first.checkpoint.read_bytes()
    mine = recipe(extra.format(first.checkpoint))
    with pytest.raises(OutputError, match="names it, and --force would delete it"):
        run_recipe(mine, tmp_path / "run", force=True, progress=False)
    assert first.checkpoint.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04 cut short"])
def test_a_damaged_state_is_named_and_kept(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(TrainingError):
        run_recipe(recipe('schedule = "none"\n', learning_rate="1e30"), tmp_path, progress=False)
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(OutputError, match=r"last\.ckpt: is damaged.*--force"):
        run_recipe(recipe('schedule = "none"\n', learning_rate="1e30"), tmp_path, progress=False)
    assert (tmp_path / "last.ckpt").read_bytes() == content


def test_a_folder_too_large_for_memory_is_streamed_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128, (9, 9, 3)) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    keys = {"name": '"images"', "epochs": "1", "batch_size": "8"}
    text = TINY.replace('name = "digits"', 'name = "images"\nimage_size = [8, 8]')
    text = text.replace("epochs = 2", f"epochs = {keys['epochs']}").replace("= 64", "= 8")
    mine = parse_recipe(text, origin="r", folder=tmp_path)
    held = run_recipe(mine, tmp_path / "held", progress=False)
    monkeypatch.setattr(batches.open_source, "__defaults__", (0,))
    streamed = run_recipe(mine, tmp_path / "streamed", progress=False)
    assert held.checkpoint.read_bytes() == streamed.checkpoint.read_bytes()
    assert load_checkpoint(held.checkpoint).preprocessing.image_shape == (8, 8, 3)


def test_the_callers_draws_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run_recipe(recipe(epochs="1"), tmp_path, progress=False)
    assert torch.equal(torch.rand(3), expected)


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from edgekit.train.recipe import load_recipe
from edgekit.train.run import run_recipe

folder = Path(sys.argv[2])

def interrupt_after_an_epoch():
    while not (folder / "metrics.csv").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt_after_an_epoch).start()
try:
    run_recipe(load_recipe(sys.argv[1]), folder, progress=False)
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_an_interrupt_stays_an_interrupt_and_keeps_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.replace("epochs = 2", "epochs = 5000"))
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(path), str(folder)], capture_output=True, text=True
    )
    assert done.stdout == "interrupted True\n", done.stderr
    assert (folder / "last.ckpt").exists()
    assert not (folder / "model.safetensors").exists()


TERMINATED = """
import os, signal, sys, threading, time
from pathlib import Path
from edgekit.cli import main

recipe, folder = map(Path, sys.argv[1:])

def terminate_after_an_epoch():
    while not (folder / "metrics.csv").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=terminate_after_an_epoch).start()
sys.argv[1:] = ["train", str(recipe), "--accelerator", "cpu", "--output", str(folder)]
main()
"""


def test_a_terminated_run_says_so_and_keeps_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.replace("epochs = 2", "epochs = 5000"))
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED, str(path), str(folder)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 143
    assert done.stderr.startswith("edgekit: terminated; the same command")
    assert done.stderr.count("\n") == 1
    assert (folder / "last.ckpt").exists()
    assert not (folder / "model.safetensors").exists()


@pytest.mark.slow
def test_two_processes_train_together_and_nothing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    extra = "ema = 0.5\n[prune_channels]\nratio = 0.3\nfine_tune_epochs = 2\n"
    path.write_text(TINY.replace("= 0.05", "= 0.3").replace("epochs = 2", "epochs = 6") + extra)
    code = (
        "import sys; from pathlib import Path; "
        "from edgekit.train.recipe import load_recipe; from edgekit.train.run import run_recipe; "
        "run_recipe(load_recipe(sys.argv[1]), Path(sys.argv[2]), "
        "accelerator='cpu', devices=2)"
    )
    script = tmp_path / "train.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script), str(path), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    run_recipe(load_recipe(path), tmp_path / "one", progress=False)
    alone, together = (metrics(tmp_path / n / "metrics.csv") for n in ("one", "two"))
    assert [row["step"] for row in together] == [row["step"] for row in alone]
    first, *_, last = (float(row["train_loss"]) for row in together)
    assert last < first
    tuned = metrics(tmp_path / "two" / "fine-tune" / "metrics.csv")
    assert accuracy_of(tmp_path / "two" / "model.safetensors") == pytest.approx(
        float(tuned[-1]["validation_accuracy"])
    )


def test_shipped_recipes_name_data_that_exists() -> None:
    assert load_recipe("densenet-digits").data.name == "digits"
    assert load_recipe("densenet-cifar10").data.name == "cifar10"
