"""From a torch module to an ONNX graph that reads like the module.

The graph is exported unoptimized, so that parity with torch is checked before any of edgekit's
passes touch it; only the exporter's own roundabout ways are written plainly
(export/simplify_export.py), without which most graphs cannot be expressed at opset 17.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgekit.export.graph import set_metadata
from edgekit.export.names import name_after_modules
from edgekit.export.opset import check_opset, convert_opset
from edgekit.export.quiet import quiet
from edgekit.export.simplify_export import simplify_export
from edgekit.runtime.errors import InputError, MissingExtraError
from edgekit.runtime.preprocessing import PREFIX, Preprocessing

if TYPE_CHECKING:
    import torch

DEFAULT_OPSET = 20
INPUT, OUTPUT, BATCH = "input", "logits", "batch"

# What torch's exporter is written for. Asked for another it converts, and stays here if it fails.
_EXPORTER_OPSET = 18
# Two samples: torch.export takes a dimension of one for a constant.
_EXAMPLE_SAMPLES = 2


def to_onnx(
    module: torch.nn.Module,
    preprocessing: Preprocessing,
    *,
    opset: int = DEFAULT_OPSET,
    source: str = "",
) -> ir.Model:
    """Export an image classifier in evaluation mode, with a dynamic batch axis.

    Args:
        module: Takes float32 [batch, *preprocessing.input_shape], returns float32 logits
            [batch, classes]. Its mode is the same afterwards.
        preprocessing: Goes into the model's metadata; gives the size of the input.
        opset: From `MIN_OPSET` to `max_opset()` of export/opset.py.
        source: Where the module comes from, for the metadata; empty for unknown.

    Returns:
        A model with the input "input" and the output "logits".

    Raises:
        InputError: the opset is out of range, torch cannot export the module with a dynamic batch
            axis, or it returns anything but one float32 tensor [batch, classes] of as many classes
            as there are names.
        ModelFileError: the graph cannot be expressed at that opset.
        MissingExtraError: torch is not installed.
    """
    check_opset(opset)
    with evaluation_mode(module):
        model = _export(module, preprocessing)
        _check_output(module, preprocessing)
    simplify_export(model)
    leaves = {name for name, child in module.named_modules() if name and not any(child.children())}
    name_after_modules(model, leaves, module.state_dict(keep_vars=True).keys())
    _check_signature(model, preprocessing)
    model = convert_opset(model, opset)
    model.producer_name, model.producer_version = "edgekit", importlib.metadata.version("edgekit")
    model.graph.name = type(module).__name__
    set_metadata(model, preprocessing.to_metadata())
    set_metadata(model, {f"{PREFIX}version": model.producer_version})
    if source:
        set_metadata(model, {f"{PREFIX}source": source})
    return model


def _export(module: torch.nn.Module, preprocessing: Preprocessing) -> ir.Model:
    try:
        import torch
        from torch.onnx import OnnxExporterError
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch", "train") from error
    example = _example(module, preprocessing)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=_EXPORTER_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            )
    except (OnnxExporterError, RuntimeError) as error:
        raise InputError(
            f"torch cannot export {type(module).__name__} for images of "
            f"{list(preprocessing.input_shape)} and any batch size: {_root_reason(error)}"
        ) from error
    assert program is not None
    return program.model


def _example(module: torch.nn.Module, preprocessing: Preprocessing) -> torch.Tensor:
    import torch

    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    return torch.zeros(_EXAMPLE_SAMPLES, *preprocessing.input_shape, device=device)


def _check_output(module: torch.nn.Module, preprocessing: Preprocessing) -> None:
    """Refuse what the graph does not show: a tensor in a dict, a list or a tuple; also its type."""
    import torch

    with torch.no_grad():
        logits = module(_example(module, preprocessing))
    if not isinstance(logits, torch.Tensor):
        found = f"a {type(logits).__name__}"
    elif logits.dtype != torch.float32:
        found = f"{logits.dtype}".removeprefix("torch.") + f" {list(logits.shape)}"
    else:
        return
    raise InputError(
        f"{type(module).__name__} returns {found}; a classifier returns one float32 tensor "
        "[batch, classes]: wrap it in a module that returns the logits alone"
    )


def _root_reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


@contextlib.contextmanager
def evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """Put a module, and all within it, into evaluation mode and back into what each was in."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, training in modes.items():
            child.training = training


def _check_signature(model: ir.Model, preprocessing: Preprocessing) -> None:
    shape = model.graph.outputs[0].shape
    if len(model.graph.outputs) != 1 or shape is None or len(shape) != 2:
        found = ", ".join(str(value.shape) for value in model.graph.outputs)
        raise InputError(
            f"the module returns {found}; a classifier returns one tensor [batch, classes]"
        )
    if isinstance(shape[0], int):
        raise InputError(
            f"the module returns {shape[0]} rows whatever the batch size: it must not mix samples"
        )
    names = len(preprocessing.class_names)
    if names and shape[1] != names:
        raise InputError(
            f"the module returns {shape[1]} classes, but {names} class names are given: "
            "train it on the data that the names come from"
        )
