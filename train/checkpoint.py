"""Checkpoints: one safetensors file with the weights and all that is needed to use them.

The file's metadata holds, under keys that begin with "edgekit.": checkpoint_version, architecture,
options (JSON), in_channels, num_classes, the preprocessing, data and recipe. Nothing is pickled.

A network that channel pruning made narrower needs no further record: the shapes of its tensors say
how wide each layer is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.runtime.errors import (
    CheckpointError,
    MissingExtraError,
    ModelFileError,
    RecipeError,
)
from edgekit.runtime.files import replace_atomically
from edgekit.runtime.preprocessing import PREFIX, Preprocessing
from edgekit.train.models.fit_widths import fit_widths
from edgekit.train.models.table import MODELS, build_model
from edgekit.train.recipe_keys import MIN_SIDE

try:
    import safetensors
    import safetensors.torch
except ModuleNotFoundError as missing:
    raise MissingExtraError("safetensors", "train") from missing

_VERSION = "1"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network: what it is, what it takes, and its weights.

    Attributes:
        architecture: A key of train.models.table.MODELS.
        options: What the architecture's config dataclass takes.
        in_channels: Channels of an image, 1 or 3.
        num_classes: Outputs.
        preprocessing: What turns images into its input.
        data: Name or path of the data set that it was trained on.
        recipe: The recipe's TOML text, or "".
        state: The module's state_dict.
    """

    architecture: str
    options: Mapping[str, Any]
    in_channels: int
    num_classes: int
    preprocessing: Preprocessing
    data: str
    recipe: str
    state: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if self.preprocessing.channels != self.in_channels:
            raise CheckpointError(
                f"the network takes {self.in_channels} channels, but its preprocessing gives "
                f"{self.preprocessing.channels}: train it again"
            )
        names = len(self.preprocessing.class_names)
        if names not in (0, self.num_classes):
            raise CheckpointError(
                f"the network has {self.num_classes} outputs, but {names} class names: "
                f"train it again"
            )

    def build(self) -> nn.Module:
        """The network with its weights, on the CPU, in evaluation mode, narrowed as it was pruned.

        Nothing is allocated beyond the tensors that the checkpoint holds.

        Raises:
            CheckpointError: the tensors do not fit the architecture and its options.
        """
        try:
            with torch.device("meta"):
                module = build_model(
                    self.architecture,
                    self.options,
                    in_channels=self.in_channels,
                    num_classes=self.num_classes,
                )
        except RecipeError as error:
            raise CheckpointError(f"the configuration does not hold: {error}") from error
        _check_names(module, self.state, self.architecture)
        fit_widths(module, self.state)
        _check_tensors(module, self.state, self.architecture)
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.state.items()}
        module.load_state_dict(copies, assign=True)
        module.eval()
        self._probe(module)
        return module

    def _probe(self, module: nn.Module) -> None:
        """Refuse layers that do not fit each other."""
        probe = torch.zeros(1, self.in_channels, MIN_SIDE, MIN_SIDE)
        try:
            with torch.no_grad():
                logits = module(probe)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the tensors of this {self.architecture} do not fit each other "
                f"({_one_line(error)}): the file is damaged, train it again"
            ) from error
        if logits.shape != (1, self.num_classes):
            raise CheckpointError(
                f"the tensors give {logits.shape[1]} outputs, the configuration says "
                f"{self.num_classes} classes: the file is damaged, train it again"
            )


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; floating-point tensors are stored as float32.

    The file appears whole or not at all, and replaces an older one.

    Raises:
        CheckpointError: a tensor is not finite.
        OutputError: the file cannot be written.
    """
    state = {name: _stored(tensor) for name, tensor in checkpoint.state.items()}
    _check_finite(state)
    metadata = {
        f"{PREFIX}checkpoint_version": _VERSION,
        f"{PREFIX}architecture": checkpoint.architecture,
        f"{PREFIX}options": json.dumps(dict(checkpoint.options), sort_keys=True),
        f"{PREFIX}in_channels": str(checkpoint.in_channels),
        f"{PREFIX}num_classes": str(checkpoint.num_classes),
        f"{PREFIX}data": checkpoint.data,
        f"{PREFIX}recipe": checkpoint.recipe,
        **checkpoint.preprocessing.to_metadata(),
    }
    content = _with_sorted_metadata(safetensors.torch.save(state, metadata))
    with replace_atomically(path) as staged:
        staged.write_bytes(content)


def _with_sorted_metadata(content: bytes) -> bytes:
    """The same safetensors bytes whatever the order in which the library wrote the metadata."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[end:]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check that its weights fit its architecture.

    Raises:
        CheckpointError: the file is missing, empty, damaged, no checkpoint of edgekit's, of
            another version or architecture, or holds tensors that do not fit or are not finite.
    """
    try:
        metadata, state = _read(path)
        checkpoint = _from_metadata(metadata, state)
        checkpoint.build()  # which checks the types: torch cannot ask all of them for NaN
        _check_finite(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {_printable(str(error))}") from error
    return checkpoint


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, copied into memory."""
    try:
        if not path.exists():
            raise CheckpointError("no such file; give a checkpoint that `edgekit train` wrote")
        if not path.is_file():
            raise CheckpointError("is not a file; give the checkpoint in it, a .safetensors file")
        if not path.stat().st_size:
            raise CheckpointError("the file is empty; train again, or copy the checkpoint again")
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 -- no mapping
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}") from error
    except (safetensors.SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"is not a whole safetensors file ({_one_line(error)}); give a checkpoint that "
            f"`edgekit train` wrote, or copy it again"
        ) from error
    return metadata, state


def _from_metadata(metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> Checkpoint:
    version = metadata.get(f"{PREFIX}checkpoint_version")
    if version is None:
        raise CheckpointError(
            "is no checkpoint of edgekit's (its header lacks edgekit.checkpoint_version); give a "
            "file that `edgekit train` wrote"
        )
    if version != _VERSION:
        raise CheckpointError(
            f"has checkpoint version {version}, this edgekit reads {_VERSION}: use the edgekit "
            f"that wrote it"
        )
    try:
        architecture = metadata[f"{PREFIX}architecture"]
        if architecture not in MODELS:
            raise CheckpointError(
                f"holds the unknown architecture {architecture!r}; known: {', '.join(MODELS)}"
            )
        preprocessing = Preprocessing.from_metadata(metadata)
        options = json.loads(metadata[f"{PREFIX}options"])
        if preprocessing is None or not isinstance(options, dict):
            raise CheckpointError(
                "its header lacks the preprocessing or the options: the file is damaged, train "
                "it again"
            )
        return Checkpoint(
            architecture=architecture,
            options=options,
            in_channels=int(metadata[f"{PREFIX}in_channels"]),
            num_classes=int(metadata[f"{PREFIX}num_classes"]),
            preprocessing=preprocessing,
            data=metadata[f"{PREFIX}data"],
            recipe=metadata[f"{PREFIX}recipe"],
            state=state,
        )
    except (KeyError, ValueError, RecursionError, ModelFileError) as error:
        raise CheckpointError(
            f"its header is damaged ({_one_line(error)}): train it again"
        ) from error


def _stored(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def _check_finite(state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"tensor {name} holds NaN or infinity: the training diverged")


def _check_names(module: nn.Module, state: Mapping[str, Tensor], architecture: str) -> None:
    expected = module.state_dict().keys()
    missing, surplus = sorted(expected - state.keys()), sorted(state.keys() - expected)
    if missing or surplus:
        what = f"lack {missing[0]}" if missing else f"have {surplus[0]}, which it does not"
        raise CheckpointError(
            f"the tensors do not fit the {architecture} of the header: they {what}; the file is "
            f"damaged or of another architecture"
        )


def _check_tensors(module: nn.Module, state: Mapping[str, Tensor], architecture: str) -> None:
    """Types and shapes of all tensors, after the layers took on the widths of their weights."""
    for name, expected in module.state_dict().items():
        tensor = state[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise CheckpointError(
                f"tensor {name} is {tensor.dtype} {list(tensor.shape)}, this {architecture} takes "
                f"{expected.dtype} {list(expected.shape)}: the file is damaged or of another "
                f"architecture"
            )


def _one_line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


def _printable(text: str) -> str:
    """What a hostile header put into a message must not reach the terminal as it is."""
    return "".join(character if character.isprintable() else " " for character in text)
