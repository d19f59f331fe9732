"""Bad input is one line, exit status 2, and nothing lost or half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

Command = Callable[..., Any]

MODEL_COMMANDS = {
    "optimize": ("-o", "out.onnx"),
    "quantize": ("-o", "out.onnx", "--calib", "digits"),
    "bench": ("--data", "digits"),
    "inspect": (),
    "predict": ("image.png",),
}


@pytest.fixture(autouse=True)
def in_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEKIT_DATA", raising=False)
    assert image.is_file()


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", MODEL_COMMANDS)
@pytest.mark.parametrize("content", [None, b"", b"words", "half"], ids=str)
def test_a_file_that_is_no_model(
    command: str, content: bytes | str | None, refuses: Command, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.onnx"
    if content == "half":
        path.write_bytes(model.read_bytes()[:400])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    before = files(tmp_path)
    assert "bad.onnx" in refuses(command, path, *MODEL_COMMANDS[command]).err
    assert files(tmp_path) == before


@pytest.mark.parametrize("content", [None, b"", b"words", "half", "model"], ids=str)
def test_a_file_that_is_no_checkpoint(
    content: bytes | str | None, refuses: Command, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.safetensors"
    if content == "model":
        path.write_bytes(model.read_bytes())
    elif content == "half":
        path.write_bytes((1 << 40).to_bytes(8, "little") + b'{"a"')
    elif isinstance(content, bytes):
        path.write_bytes(content)
    assert "bad.safetensors" in refuses("export", path, "-o", "out.onnx").err
    assert not (tmp_path / "out.onnx").exists()


def test_a_checkpoint_of_another_architecture(refuses: Command, tmp_path: Path) -> None:
    import torch

    from edgekit.runtime.preprocessing import Preprocessing
    from edgekit.train.checkpoint import Checkpoint, save_checkpoint
    from edgekit.train.models.table import build_model

    state = build_model("resnet", {}, in_channels=1, num_classes=10).state_dict()
    checkpoint = Checkpoint(
        architecture="densenet",
        options={},
        in_channels=1,
        num_classes=10,
        preprocessing=Preprocessing(8, 8, (0.3,), (0.37,)),
        data="digits",
        recipe="",
        state={name: torch.zeros_like(tensor) for name, tensor in state.items()},
    )
    save_checkpoint(checkpoint, tmp_path / "other.safetensors")
    outcome = refuses("export", "other.safetensors", "-o", "out.onnx")
    assert "densenet" in outcome.err


def test_a_run_that_is_not_finished(refuses: Command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert "finish the run" in refuses("export", "run", "-o", "out.onnx").err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "name"),
        ("name = ", "not valid TOML"),
        (
            'name = "x"\n[data]\nname = "digits"\n[model]\nname = "densenet"\n[train]\nepoch = 3\n',
            "did you mean epochs",
        ),
        (
            'name = "x"\n[data]\nname = "digits"\n[model]\nname = "densenet"\ngrowht = 3\n'
            "[train]\nepochs = 1\n",
            "model.growht",
        ),
    ],
)
def test_a_recipe_with_a_wrong_key(
    text: str, message: str, refuses: Command, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    assert message in refuses("train", "recipe.toml", "-o", "run").err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_recipe_that_does_not_exist(refuses: Command) -> None:
    assert "densenet-digits" in refuses("train", "resnet-imagenet").err


def test_data_that_is_not_there(refuses: Command, model: Path, tmp_path: Path) -> None:
    assert "give digits" in refuses("bench", model, "--data", "nowhere").err
    assert "--data-dir" in refuses("bench", model, "--data", "cifar10").err
    (tmp_path / "empty").mkdir()
    assert "no sub-folders" in refuses("bench", model, "--data", "empty").err


def test_an_image_that_does_not_decode(refuses: Command, model: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in "0123456789":
            (tmp_path / "set" / part / name).mkdir(parents=True)
            Image.new("L", (8, 8), int(name)).save(tmp_path / "set" / part / name / "a.png")
        (tmp_path / "set" / part / "3" / "a.png").write_bytes(b"words")
    for command in (("bench", model, "--data"), ("quantize", model, "-o", "q.onnx", "--calib")):
        assert "a.png: does not decode" in refuses(*command, "set").err
    (tmp_path / "words.png").write_bytes(b"words")
    assert "does not decode" in refuses("predict", model, "words.png").err


def test_images_of_another_shape(refuses: Command, model: Path, tmp_path: Path) -> None:
    images = np.zeros((20, 9, 8), np.uint8)
    labels = np.arange(20) % 10
    np.savez(tmp_path / "s.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    for command in (("bench", model, "--data"), ("quantize", model, "-o", "q.onnx", "--calib")):
        assert "[9, 8, 1]" in refuses(*command, "s.npz").err


def test_classes_of_another_data_set(refuses: Command, model: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1])
    np.savez(tmp_path / "s.npz", x_test=images, y_test=labels)
    assert "classes" in refuses("bench", model, "--data", "s.npz").err


def test_calibration_that_says_nothing(refuses: Command, model: Path, tmp_path: Path) -> None:
    labels = np.arange(20) % 10
    same = np.full((20, 8, 8), 7, np.uint8)
    np.savez(tmp_path / "same.npz", x_train=same, y_train=labels)
    assert "constant" in refuses("quantize", model, "-o", "q.onnx", "--calib", "same.npz").err
    assert "--calib" in refuses("quantize", model, "-o", "q.onnx").err
    few = ("quantize", model, "-o", "q.onnx", "--calib", "digits", "--samples", "5000")
    assert "5000 calibration samples" in refuses(*few).err
    assert not (tmp_path / "q.onnx").exists()


def test_no_samples_at_all(edgekit: Command, model: Path) -> None:
    outcome = edgekit("quantize", model, "-o", "q.onnx", "--calib", "digits", "--samples", "0")
    assert outcome.status == 2
    assert "--samples" in outcome.err


def test_a_network_whose_activations_are_not_finite(
    refuses: Command, model: Path, tmp_path: Path
) -> None:
    broken = onnx.load(model)
    weight = next(t for t in broken.graph.initializer if t.name == "bias")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), "bias"))
    onnx.save(broken, tmp_path / "nan.onnx")
    assert "finite" in refuses("bench", "nan.onnx", "--data", "digits").err
    assert "finite" in refuses("quantize", "nan.onnx", "-o", "q.onnx", "--calib", "digits").err
    assert not (tmp_path / "q.onnx").exists()


def test_settings_that_do_not_exist(refuses: Command, model: Path) -> None:
    calibrated = ("quantize", model, "-o", "q.onnx", "--calib", "digits")
    assert "int8" in refuses(*calibrated, "--precision", "int3").err
    assert "minmax" in refuses(*calibrated, "--method", "guess").err
    assert "matches no node" in refuses(*calibrated, "--exclude", "nothing").err
    assert "regular expression" in refuses(*calibrated, "--exclude", "(").err
    assert "fold-batch-norm" in refuses("optimize", model, "-o", "o.onnx", "--passes", "magic").err
    assert "1 or 3 values" in refuses("predict", model, "image.png", "--mean", "1,2").err


def test_an_output_that_is_the_input(refuses: Command, model: Path) -> None:
    before = model.read_bytes()
    for command in (("optimize", model), ("quantize", model, "--precision", "fp16")):
        assert "also the input" in refuses(*command, "-o", model, "--force").err
    assert model.read_bytes() == before


def test_an_output_that_exists_needs_force(
    refuses: Command, edgekit: Command, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.onnx").write_text("precious")
    assert "--force" in refuses("optimize", model, "-o", "out.onnx").err
    assert (tmp_path / "out.onnx").read_text() == "precious"
    assert edgekit("optimize", model, "-o", "out.onnx", "--force").status == 0
    onnx.checker.check_model(str(tmp_path / "out.onnx"))


def test_a_place_where_nothing_can_be_written(
    refuses: Command, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert "not a folder" in refuses("optimize", model, "-o", "file/out.onnx").err
    if os.geteuid() == 0:  # root may write anywhere but in the kernel's own trees
        assert "/proc" in refuses("optimize", model, "-o", "/proc/out.onnx").err
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "permission" in refuses("optimize", model, "-o", "closed/out.onnx").err


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    for arguments in (["--debug", "inspect", "x.onnx"], ["inspect", "x.onnx", "--debug"]):
        result = subprocess.run(
            [sys.executable, "-m", "edgekit", *arguments], capture_output=True, text=True
        )
        assert "Traceback" in result.stderr
        assert "ModelFileError" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench",), "Missing argument"),
        (("nonsense",), "No such command"),
        (("inspect", "model.onnx", "--port", "x"), "--port"),
        (("quantize", "model.onnx", "-o", "q.onnx", "--samples", "9"), "--calib"),
        (
            ("quantize", "model.onnx", "-o", "q.onnx", "--precision", "fp16", "--eval", "digits"),
            "--max-drop",
        ),
        (("inspect", "model.onnx", "--input-shape", "input=3"), "name:1,3,224,224"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str, refuses: Command) -> None:
    error = refuses(*arguments).err
    assert message in error
    assert "--help" in error


TWO_INPUTS = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 1, 8, 8] a, float[N, 1, 8, 8] b) => (float[N, 1, 8, 8] c) { c = Add(a, b) }"""


@pytest.mark.parametrize("command", ["optimize", "quantize", "bench", "predict"])
def test_a_model_of_two_inputs_is_named(command: str, refuses: Command) -> None:
    onnx.save(onnx.parser.parse_model(TWO_INPUTS), "two.onnx")
    data = ("--data", "digits") if command == "optimize" else ()
    error = refuses(command, "two.onnx", *MODEL_COMMANDS[command], *data).err
    assert error.startswith("edgekit: two.onnx: the model has 2 inputs (a, b)")


@pytest.mark.parametrize("command", MODEL_COMMANDS)
def test_a_model_with_damaged_metadata_is_named(
    command: str, refuses: Command, model: Path
) -> None:
    proto = onnx.load(model)
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, entries | {"edgekit.mean": "[NaN]"})
    onnx.save(proto, "damaged.onnx")
    error = refuses(command, "damaged.onnx", *MODEL_COMMANDS[command]).err
    assert error.startswith("edgekit: damaged.onnx: the model's edgekit.* metadata is damaged")


def test_a_model_that_is_quantized_already_is_named(
    edgekit: Command, refuses: Command, model: Path
) -> None:
    assert edgekit("quantize", model, "-o", "d.onnx", "--precision", "dynamic-int8").status == 0
    error = refuses("quantize", "d.onnx", "-o", "q.onnx", "--calib", "digits").err
    assert error.startswith("edgekit: d.onnx: the model is quantized already")


def test_what_is_no_regular_file_is_called_that(refuses: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "fifo: is no regular file" in refuses("inspect", "fifo").err
    assert "fifo: is no regular file" in refuses("report", "fifo", "-o", "r.md").err
    assert f"{tmp_path}: is a folder" in refuses("report", tmp_path, "-o", "r.md").err


def test_an_error_of_its_own_is_told_in_one_line(
    edgekit: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("edgekit.commands.inspect.Subject.inspect", fail)
    outcome = edgekit("inspect", model)
    assert outcome.status == 70
    assert outcome.err.count("\n") == 1
    assert "unexpected ZeroDivisionError: by nought" in outcome.err


def test_more_than_memory_holds_is_bad_input(
    refuses: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 426. PiB")

    monkeypatch.setattr("edgekit.commands.inspect.Subject.inspect", fail)
    assert "memory does not suffice (Unable to allocate 426. PiB)" in refuses("inspect", model).err


def test_ctrl_c_is_told_in_one_line(
    edgekit: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgekit.commands.inspect.Subject.inspect", interrupt)
    outcome = edgekit("inspect", model)
    assert (outcome.status, outcome.err) == (130, "edgekit: interrupted\n")


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize(
    "command",
    [
        ("bench", "--loadgen", "both", "--loadgen-seconds"),
        ("bench", "--data", "digits", "--max-drop"),
        ("bench", "--data", "digits", "--min-accuracy"),
        ("bench", "--max-latency-ratio"),
        ("quantize", "-o", "o.onnx", "--calib", "digits", "--max-drop"),
        ("quantize", "-o", "o.onnx", "--calib", "digits", "--max-drop", 1, "--search-seconds"),
        ("quantize", "-o", "o.onnx", "--rounding", "adaptive", "--rounding-seconds"),
    ],
    ids=lambda command: f"{command[0]} {command[-1]}",
)
def test_a_number_that_is_not_finite(
    command: tuple[object, ...], value: str, refuses: Command, model: Path
) -> None:
    name, *rest = command
    assert str(command[-1]) in refuses(name, model, *rest, value).err
