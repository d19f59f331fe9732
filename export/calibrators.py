"""Calibration methods: from what a model computes on real data to a range for each tensor.

A new method is one class of the `Calibrator` protocol and one line in `CALIBRATORS`. Those here
are onnxruntime's, fed one batch at a time: given all batches at once they would keep every
activation of every sample in memory.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx_ir as ir

from edgekit.export.calibration import CalibrationReader, Feed, check_feed
from edgekit.export.graph import save_graph
from edgekit.export.quiet import quiet
from edgekit.runtime.errors import InputError, ModelFileError

Progress = Callable[[int, int], None]
# Lowest and highest value of each tensor, by its name.
Ranges = dict[str, tuple[float, float]]


class Calibrator(Protocol):
    """A calibration method.

    Attributes:
        settings: Its parameters, for a model's metadata.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """The method's parameters, for a model's metadata."""

    def ranges(
        self,
        model: ir.Model,
        reader: CalibrationReader,
        op_types: Sequence[str],
        progress: Progress | None = None,
    ) -> Ranges:
        """Find the range of every float tensor that nodes of `op_types` read or write.

        Args:
            model: A float32 model; it is not changed.
            reader: Calibration data.
            op_types: The operators that will be quantized.
            progress: Called with batches done and their total.

        Raises:
            DataError: the data is unusable, or does not fit the model.
            ModelFileError: a tensor is not finite on the data.
        """


@dataclass(frozen=True)
class OnnxRuntimeCalibrator:
    """One of the methods in onnxruntime.quantization.

    Attributes:
        method: Name of a member of onnxruntime's CalibrationMethod.
        settings: Options of onnxruntime's `create_calibrator`.
    """

    method: str
    settings: Mapping[str, Any]

    def ranges(
        self,
        model: ir.Model,
        reader: CalibrationReader,
        op_types: Sequence[str],
        progress: Progress | None = None,
    ) -> Ranges:
        """See `Calibrator.ranges`."""
        from onnxruntime.quantization import CalibrationMethod, create_calibrator

        with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
            path = Path(scratch) / "model.onnx"
            save_graph(model, path)
            with quiet():
                calibrator = create_calibrator(
                    path,
                    list(op_types),
                    augmented_model_path=str(Path(scratch) / "augmented.onnx"),
                    calibrate_method=CalibrationMethod[self.method],
                    extra_options=dict(self.settings),
                )
            for done, feed in enumerate(reader, 1):
                check_feed(model, feed)
                with quiet():
                    calibrator.collect_data(_OneBatch(feed))
                if progress is not None:
                    progress(done, len(reader))
            with quiet():
                found = calibrator.compute_data()
        ranges = {
            name: (data.lowest.item(), data.highest.item()) for name, data in found.data.items()
        }
        _check_ranges(ranges)
        return ranges


def _check_ranges(ranges: Ranges) -> None:
    for name, bounds in ranges.items():
        if not all(map(math.isfinite, bounds)):
            raise ModelFileError(
                f"tensor {name!r} is not finite on the calibration data: the model is broken, or "
                "its input is normalized otherwise"
            )


class _OneBatch:
    """A single batch in onnxruntime's protocol for calibration data."""

    def __init__(self, feed: Feed) -> None:
        self._feed: Feed | None = feed

    def get_next(self) -> Feed | None:
        feed, self._feed = self._feed, None
        return feed


# Entropy looks for 128 quantized bins in a histogram of more: onnxruntime's default, 128 of 128,
# leaves nothing to look for. Its Distribution is for float8 and gives integers no range.
CALIBRATORS: dict[str, Calibrator] = {
    "minmax": OnnxRuntimeCalibrator("MinMax", {"symmetric": False}),
    "percentile": OnnxRuntimeCalibrator(
        "Percentile", {"symmetric": False, "percentile": 99.99, "num_bins": 2048}
    ),
    "entropy": OnnxRuntimeCalibrator(
        "Entropy", {"symmetric": False, "num_bins": 512, "num_quantized_bins": 128}
    ),
}


def calibrator(method: str) -> Calibrator:
    """Look a calibration method up.

    Raises:
        InputError: there is none of that name.
    """
    if method not in CALIBRATORS:
        raise InputError(
            f"no calibration method {method!r}; choose one of {', '.join(CALIBRATORS)}"
        )
    return CALIBRATORS[method]
