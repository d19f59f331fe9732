from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from edgekit.runtime.errors import CheckpointError, OutputError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgekit.train.models.table import build_model
from edgekit.train.prune_channels import prune_channels

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet-pre": ("densenet", {"blocks": [2, 2], "growth": 12, "groups": [2, 3]}),
    "densenet-post": ("densenet", {"blocks": [2], "growth": 6, "order": "post", "groups": 3}),
    "resnet": ("resnet", {"widths": [24, 48], "stem_width": 24, "groups": [2, 3]}),
    "efficientnet": ("efficientnet", {}),
}
PREPROCESSING = Preprocessing(16, 16, (0.5,), (0.25,), ("a", "b", "ç"))


def _checkpoint(case: str = "densenet-pre", ratio: float = 0.0) -> tuple[Checkpoint, nn.Module]:
    torch.manual_seed(0)
    name, options = CASES[case]
    module = build_model(name, options, in_channels=1, num_classes=3)
    if ratio:
        prune_channels(module, torch.zeros(1, 1, 16, 16), ratio=ratio)
    module.train()(torch.randn(8, 1, 16, 16))  # statistics other than the first ones
    checkpoint = Checkpoint(
        name, options, 1, 3, PREPROCESSING, "digits", "[model]\nname = 'ü'\n", module.state_dict()
    )
    return checkpoint, module.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(_checkpoint()[0], path)
    return path


def _outputs(module: nn.Module) -> Tensor:
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        result: Tensor = module(images)
    return result


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_comes_back_bit_for_bit_pruned_or_not(
    case: str, ratio: float, tmp_path: Path
) -> None:
    checkpoint, module = _checkpoint(case, ratio)
    path = tmp_path / "model.safetensors"
    save_checkpoint(checkpoint, path)
    loaded = load_checkpoint(path)
    built = loaded.build()
    assert not built.training
    assert all(parameter.requires_grad for parameter in built.parameters())
    assert torch.equal(_outputs(built), _outputs(module))
    for name, tensor in module.state_dict().items():
        assert torch.equal(built.state_dict()[name], tensor)
    for field in ("architecture", "options", "in_channels", "num_classes", "data", "recipe"):
        assert getattr(loaded, field) == getattr(checkpoint, field)
    assert loaded.preprocessing == PREPROCESSING
    with torch.no_grad():
        next(built.parameters()).mul_(1.5).add_(0.1)
    assert not torch.equal(_outputs(built), _outputs(module))
    assert torch.equal(_outputs(loaded.build()), _outputs(module))


def test_a_rebuilt_pruned_network_trains_and_is_pruned_again() -> None:
    checkpoint, _ = _checkpoint("efficientnet", 0.5)
    module = checkpoint.build().train()
    module(torch.randn(4, 1, 16, 16)).sum().backward()
    report = prune_channels(module, torch.zeros(1, 1, 16, 16), ratio=0.5)
    rebuilt = replace(checkpoint, state=module.state_dict()).build()
    assert sum(p.numel() for p in rebuilt.parameters()) == report.params_after


def test_metadata_is_text_that_other_tools_read(saved: Path) -> None:
    with safetensors.safe_open(saved, framework="pt") as opened:
        metadata = opened.metadata()
    assert metadata["edgekit.checkpoint_version"] == "1"
    assert metadata["edgekit.architecture"] == "densenet"
    assert json.loads(metadata["edgekit.options"]) == CASES["densenet-pre"][1]
    assert json.loads(metadata["edgekit.class_names"]) == ["a", "b", "ç"]


def test_half_precision_and_channels_last_weights_are_stored_as_plain_float32(
    tmp_path: Path,
) -> None:
    checkpoint, module = _checkpoint()
    module.bfloat16().to(memory_format=torch.channels_last)
    path = tmp_path / "model.safetensors"
    save_checkpoint(replace(checkpoint, state=module.state_dict()), path)
    state = load_checkpoint(path).state
    assert state["stem.conv.weight"].dtype == torch.float32
    assert state["stem.conv.weight"].is_contiguous()
    assert torch.equal(state["stem.conv.weight"], module.state_dict()["stem.conv.weight"].float())


def test_saving_replaces_whole_files_and_leaves_nothing_else(saved: Path) -> None:
    checkpoint, _ = _checkpoint()
    before = saved.read_bytes()
    bad = {**checkpoint.state, "stem.conv.weight": checkpoint.state["stem.conv.weight"] * torch.nan}
    with pytest.raises(CheckpointError, match=r"stem\.conv\.weight holds NaN"):
        save_checkpoint(replace(checkpoint, state=bad), saved)
    assert saved.read_bytes() == before
    save_checkpoint(replace(checkpoint, data="other"), saved)
    assert load_checkpoint(saved).data == "other"
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_an_unwritable_target_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_checkpoint(_checkpoint()[0], tmp_path / "file" / "model.safetensors")


def _refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def test_a_file_truncated_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(whole) - 1):
        saved.write_bytes(whole[:length])
        _refused(saved, "is not a whole safetensors file")
    saved.write_bytes(whole + b"\0")
    _refused(saved, "is not a whole safetensors file")
    saved.write_bytes(b"")
    _refused(saved, "the file is empty")
    saved.write_bytes(whole)
    load_checkpoint(saved)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    _refused(path, "no such file")
    path.mkdir()
    _refused(path, "is not a file")
    path.rmdir()
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))
    _refused(path, "is not a whole safetensors file")
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    _refused(path, "is not a whole safetensors file")
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}))
    _refused(path, "is no checkpoint of edgekit's")


def _rewrite(path: Path, state: dict[str, Tensor] | None = None, **changes: str | None) -> None:
    with safetensors.safe_open(path, framework="pt") as opened:
        metadata = dict(opened.metadata())
    metadata |= {f"edgekit.{key}": value for key, value in changes.items()}
    kept = {key: value for key, value in metadata.items() if value is not None}
    path.write_bytes(
        safetensors.torch.save(state or safetensors.torch.load(path.read_bytes()), kept)
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("checkpoint_version", "2", "has checkpoint version 2, this edgekit reads 1"),
        ("architecture", "lenet", "unknown architecture 'lenet'; known: densenet"),
        ("architecture", None, "its header is damaged"),
        ("architecture", "resnet", "configuration does not hold: model.growth: unknown"),
        ("options", "{", "its header is damaged"),
        ("options", "[1]", "lacks the preprocessing or the options"),
        ("options", "[" * 100_000, "its header is damaged"),
        ("options", '{"blokcs": [2]}', "does not hold: model.blokcs: unknown; did you mean blocks"),
        ("options", r'{"a\nb\u001b": 1}', r"does not hold: model\.a b : unknown"),
        ("options", '{"blocks": [3, 2]}', "they lack blocks.0.layers.2"),
        ("options", '{"blocks": [2]}', "they have blocks.1"),
        ("options", '{"blocks": [2, 2], "growth": 12}', "do not fit each other"),
        ("options", '{"blocks": [2, 2], "stem_kernel": 5}', "tensor stem.conv.weight is .* takes"),
        ("options", '{"blocks": [2, 2], "growth": 1000000000}', "growth 1000000000 must be"),
        ("in_channels", "3", "takes 3 channels, but its preprocessing gives 1"),
        ("in_channels", "one", "its header is damaged"),
        ("num_classes", "4", "has 4 outputs, but 3 class names"),
        ("num_classes", "1" * 5000, "its header is damaged"),
        ("input_size", None, "lacks the preprocessing"),
        ("input_size", "[8]", "its header is damaged"),
        ("input_size", "[Infinity, 8]", "its header is damaged"),
        ("input_size", "[1000000000, 1000000000]", "its header is damaged"),
        ("class_names", "[" * 100_000, "its header is damaged"),
    ],
)
def test_a_header_that_does_not_hold_is_refused(
    key: str, value: str | None, message: str, saved: Path
) -> None:
    _rewrite(saved, **{key: value})
    _refused(saved, message)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("classifier.bias", lambda t: t * torch.inf, "classifier.bias holds NaN or infinity"),
        ("classifier.bias", lambda t: t[:2], r"classifier.bias is torch.float32 \[2\]"),
        ("classifier.weight", lambda t: t[:, :5], "do not fit each other"),
        ("stem.conv.weight", lambda t: t[:5], "do not fit each other"),
        ("stem.conv.weight", lambda t: t[:0], "stem.conv.weight is"),
        ("stem.conv.weight", lambda t: t.half(), "stem.conv.weight is torch.float16"),
        ("stem.conv.weight", lambda t: t.to(torch.float8_e4m3fn), "is torch.float8_e4m3fn"),
        ("stem.conv.weight", lambda t: t.flatten(), "stem.conv.weight is"),
        ("stem.conv.weight", lambda t: t.expand(-1, 3, -1, -1), "do not fit each other"),
        ("stem.norm.weight", lambda t: t[:5], "stem.norm.bias is"),
        ("blocks.0.layers.0.conv2.weight", lambda t: t[:5], "conv2.weight is"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    name: str, change: Any, message: str, saved: Path
) -> None:
    state = safetensors.torch.load(saved.read_bytes())
    state[name] = change(state[name]).contiguous()
    _rewrite(saved, state)
    _refused(saved, message)


def test_another_number_of_classes_than_the_tensors_have_is_refused() -> None:
    checkpoint, _ = _checkpoint()
    plain = replace(checkpoint, preprocessing=replace(PREPROCESSING, class_names=()))
    assert plain.build() is not None
    with pytest.raises(CheckpointError, match="give 3 outputs, the configuration says 4 classes"):
        replace(plain, num_classes=4).build()
