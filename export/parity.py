"""Does the exported graph compute what the torch module computes, on real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.graph import session_source
from edgekit.export.to_onnx import evaluation_mode
from edgekit.runtime.errors import DataError, ParityError
from edgekit.runtime.session import open_session, run_batch

if TYPE_CHECKING:
    import torch

# Float32 kernels round differently in torch and onnxruntime. A hundred layers stay below a tenth of
# this, relative to the largest logit; a wrong weight, axis or epsilon is far above it.
MAX_REL_ERROR = 1e-4
# What is left where all logits are next to zero.
MAX_ABS_ERROR = 1e-7

# Images that run at once: without onnxruntime's optimizations every activation is kept.
_BATCH = 32
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Parity:
    """How closely two runs of a classifier agree.

    Attributes:
        samples: Images compared.
        max_abs_error: Largest |onnx - torch| over all logits.
        max_rel_error: `max_abs_error` divided by the largest |torch| logit.
        top1_agreement: Share of images with the same top class, 0 to 1.
    """

    samples: int
    max_abs_error: float
    max_rel_error: float
    top1_agreement: float

    def __str__(self) -> str:
        return (
            f"{self.samples} images: maximum absolute difference {self.max_abs_error:.3g}, "
            f"relative {self.max_rel_error:.3g}, top-1 agreement {self.top1_agreement:.2%}"
        )


def check_parity(module: torch.nn.Module, model: ir.Model, batch: NDArray[np.float32]) -> Parity:
    """Run both on the same images, onnxruntime with its graph optimizations off.

    The first image is run alone as well: its logits must not depend on those beside it.

    Args:
        module: The module that was exported; it runs in evaluation mode and keeps its own.
        model: The graph that was exported from it.
        batch: Preprocessed images, float32 [N, ...], N at least 1.

    Raises:
        ParityError: the logits differ by more than
            `MAX_ABS_ERROR + MAX_REL_ERROR * max |torch logit|`, are not finite, or depend on the
            other images of a batch.
        DataError: there are no images, or they do not fit the model.
    """
    if len(batch) == 0:
        raise DataError("parity needs at least one image, and there is none: give more data")
    pieces = [batch[start : start + _BATCH] for start in range(0, len(batch), _BATCH)]
    expected = np.concatenate([_run_torch(module, piece) for piece in pieces])
    with session_source(model) as source:
        session = open_session(source, optimize=False)
        actual = np.concatenate([run_batch(session, piece) for piece in pieces])
        alone = run_batch(session, batch[:1])
    parity = compare_logits(expected, actual)
    _check_alone(alone, actual)
    return parity


def _check_alone(alone: NDArray[np.float32], together: NDArray[np.float32]) -> None:
    difference = float(np.abs(alone.astype(np.float64) - together[:1]).max())
    if not difference <= _limit(together):  # NaN is not
        raise ParityError(
            f"the logits of an image change by {difference:.3g} when it is alone in its batch: a "
            "layer mixes the images, such as a batch normalization without running statistics; "
            "train without it"
        )


def _limit(logits: NDArray[np.float32]) -> float:
    """Largest absolute difference that rounding may make of these logits."""
    return MAX_ABS_ERROR + MAX_REL_ERROR * float(np.abs(logits).max())


def compare_logits(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> Parity:
    """Measure how far `actual` is from `expected`, both [N, classes].

    Raises:
        ParityError: further than the tolerances of this module.
    """
    if expected.shape != actual.shape:
        raise ParityError(
            f"torch returns logits {list(expected.shape)}, the exported graph "
            f"{list(actual.shape)}: export it again"
        )
    if not np.isfinite(expected).all():
        raise ParityError("torch's own logits are not finite: train the checkpoint again")
    difference = np.abs(actual.astype(np.float64) - expected)
    largest = float(np.abs(expected).max())
    parity = Parity(
        samples=len(expected),
        max_abs_error=float(difference.max()),
        max_rel_error=float(difference.max()) / max(largest, _TINY),
        top1_agreement=float((expected.argmax(1) == actual.argmax(1)).mean()),
    )
    limit = _limit(expected)
    if not parity.max_abs_error <= limit:  # NaN is not
        raise ParityError(
            f"the exported graph disagrees with torch on {parity}; the limit is {limit:.3g} "
            "absolute: do not ship it, try another --opset"
        )
    return parity


def _run_torch(module: torch.nn.Module, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    with evaluation_mode(module), torch.no_grad():
        logits = module(torch.from_numpy(np.ascontiguousarray(batch)).to(device))
    output: NDArray[np.float32] = logits.float().cpu().numpy()
    return output
