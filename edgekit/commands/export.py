"""`edgekit export`: from a checkpoint to a checked ONNX file."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import console
from edgekit.commands.images import DataSource, noise, spread
from edgekit.export.calibration import single_input
from edgekit.export.graph import save_graph, set_metadata
from edgekit.export.optimize import OptimizeReport, optimize
from edgekit.export.passes.turn_batch_norm_into_threshold import Policy
from edgekit.runtime.data.source import Split
from edgekit.runtime.errors import CheckpointError, DataError
from edgekit.runtime.files import check_output
from edgekit.runtime.model_file import disk_bytes
from edgekit.runtime.preprocessing import PREFIX

if TYPE_CHECKING:
    from edgekit.export.parity import Parity
    from edgekit.train.checkpoint import Checkpoint

_LOGGER = logging.getLogger(__name__)

RUN_CHECKPOINT = "model.safetensors"
# A pass is verified by running the model unoptimized; more images would tell no more.
VERIFY_SAMPLES = 8
NOISE_IMAGES = 64


@dataclass(frozen=True)
class ExportResult:
    """An exported model.

    Attributes:
        output: The file.
        opset: Its operator set.
        data: What the comparison with torch ran on.
        parity: How closely the graph, before the passes, agrees with torch.
        passes: What the exact passes did; None where they were left out.
        file_bytes: Size on disk, external data included.
    """

    output: Path
    opset: int
    data: str
    parity: Parity
    passes: OptimizeReport | None
    file_bytes: int


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    opset: int = 20,
    data: DataSource | None = None,
    samples: int = 256,
    passes: bool = True,
    batch_norm: Policy = "auto",
    force: bool = False,
) -> ExportResult:
    """Turn a checkpoint into ONNX, compare it with torch on real images, run the exact passes.

    Args:
        checkpoint: A .safetensors file, the folder of a finished run, or a shipped network's name.
        output: The file to write.
        opset: ONNX operator set.
        data: Images to compare on, from the training part; an empty name stands for the data that
            the checkpoint was trained on, and, where a shipped network's is not there, for noise.
        samples: Images to compare on.
        passes: Run the exact passes.
        batch_norm: What becomes of batch norm that folds into no convolution.
        force: Replace an existing output.

    Raises:
        EdgekitError: the checkpoint, the data or the output cannot be used, the graph and torch
            disagree, or a pass changed what the model computes.
    """
    from edgekit.export.parity import check_parity
    from edgekit.export.to_onnx import to_onnx
    from edgekit.train.checkpoint import load_checkpoint

    source = checkpoint_file(checkpoint)
    archive = [] if data is None else data.files
    check_output(output, force=force, inputs=[source, *archive])
    loaded = load_checkpoint(source)
    images = _images(source, loaded, data or DataSource(""))
    batch = loaded.preprocessing(spread(images, samples))
    module = loaded.build()
    console.say(f"exporting {source} at opset {opset}, comparing on {len(batch)} images")
    model = to_onnx(module, loaded.preprocessing, opset=opset, source=source.name)
    parity = check_parity(module, model, batch)
    compared = {"opset": opset, "data": images.label, "samples": len(batch)}
    set_metadata(model, {f"{PREFIX}export": json.dumps(compared)})
    report = None
    if passes:
        inputs = {str(single_input(model).name): batch[:VERIFY_SAMPLES]}
        report = optimize(model, batch_norm=batch_norm, inputs=inputs)
    save_graph(model, output)
    return ExportResult(output, opset, images.name, parity, report, disk_bytes(output))


def _images(source: Path, checkpoint: Checkpoint, data: DataSource) -> Split:
    """What to compare on; a shipped network, which its data did not come with, goes on without."""
    from edgekit.train.trained import is_shipped

    wanted = replace(data, name=data.name or checkpoint.data)
    try:
        return wanted.load("train", checkpoint.preprocessing)
    except DataError as error:
        if data.name:
            raise
        if is_shipped(source) and data == DataSource(""):
            _LOGGER.warning(
                "comparing with torch on random pixels, for lack of real images: %s", error
            )
            return noise(checkpoint.preprocessing, NOISE_IMAGES)
        raise DataError(
            f"{error} (it is what {source} was trained on; name it as seen from here with --data)"
        ) from error


def checkpoint_file(path: Path) -> Path:
    """The checkpoint that is meant: a file, the one in a finished run's folder, or a shipped one.

    Raises:
        CheckpointError: the folder holds none, or there is none of that name.
    """
    from edgekit.train.trained import find_checkpoint

    if not path.is_dir():
        return find_checkpoint(path)
    if not (path / RUN_CHECKPOINT).is_file():
        raise CheckpointError(
            f"{path}: holds no {RUN_CHECKPOINT}; finish the run with `edgekit train`, or give a "
            ".safetensors file"
        )
    return path / RUN_CHECKPOINT
