"""`edgekit optimize`: the exact graph passes on anyone's ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import console
from edgekit.commands.export import VERIFY_SAMPLES
from edgekit.commands.images import AS_STORED, DataSource, Normalization, spread
from edgekit.commands.packing import Packing
from edgekit.export.calibration import single_input
from edgekit.export.graph import (
    check_data_file,
    external_files,
    load_graph,
    save_graph,
    set_metadata,
)
from edgekit.export.optimize import OptimizeReport, check_names, optimize
from edgekit.export.pack import PackReport
from edgekit.export.passes.turn_batch_norm_into_threshold import Policy
from edgekit.runtime.files import check_output
from edgekit.runtime.model_file import disk_bytes, own_files
from edgekit.runtime.preprocessing import PREFIX
from edgekit.runtime.session import to_input_type


@dataclass(frozen=True)
class OptimizeResult:
    """An optimized model.

    Attributes:
        output: The file.
        report: What each pass did.
        verified_on: What each pass was checked on.
        bytes_before: Size of the input on disk, external data included.
        bytes_after: Size of the output, likewise.
        packing: How tensors were packed; None where that was not asked for.
        normalization: Mean and deviation that were given in place of the model's.
    """

    output: Path
    report: OptimizeReport
    verified_on: str
    bytes_before: int
    bytes_after: int
    packing: PackReport | None = None
    normalization: Normalization = AS_STORED


def optimize_file(
    path: Path,
    output: Path,
    *,
    passes: Sequence[str] | None = None,
    batch_norm: Policy = "auto",
    data: DataSource | None = None,
    verify: bool = True,
    normalization: Normalization = AS_STORED,
    packing: Packing | None = None,
    force: bool = False,
) -> OptimizeResult:
    """Run graph passes on a model file.

    Args:
        path: The model.
        output: The file to write.
        passes: Names of passes, in order; all of them by default.
        batch_norm: What becomes of batch norm that folds into no convolution.
        data: Images, from the training part, to verify each pass on; random input by default.
        verify: Compare outputs before and after each pass.
        normalization: Mean and deviation in place of the model's.
        packing: Store the tensors packed.
        force: Replace an existing output.

    Raises:
        EdgekitError: a file cannot be used, there is no such pass, or one changed the model.
    """
    check_names(passes)
    archive = [] if data is None else data.files
    check_output(output, force=force, inputs=[*own_files(path), *archive])
    model = load_graph(path)
    read = [*external_files(model), *archive]
    check_data_file(model, output, force=force, inputs=read)
    inputs = None
    verified_on = "random numbers" if verify else "nothing"
    if data is not None:
        preprocessing = normalization.of(model)
        images = data.load("train", preprocessing)
        batch = preprocessing(spread(images, VERIFY_SAMPLES))
        verified_on = f"{len(batch)} images of {images.label}" if verify else verified_on
        entry = single_input(model)
        dtype = batch.dtype if entry.dtype is None else entry.dtype.numpy()
        inputs = {str(entry.name): to_input_type(batch, dtype)}
    with console.progress("passes") as advance:
        report = optimize(
            model, passes, batch_norm=batch_norm, verify=verify, inputs=inputs, progress=advance
        )
    set_metadata(model, {f"{PREFIX}verified_on": verified_on})
    if normalization != AS_STORED:
        set_metadata(model, normalization.of(model).to_metadata())
    packed = None
    if packing is not None:
        model, packed = packing.apply(model, inputs)
    save_graph(model, output)
    sizes = disk_bytes(path), disk_bytes(output)
    return OptimizeResult(output, report, verified_on, *sizes, packed, normalization)
