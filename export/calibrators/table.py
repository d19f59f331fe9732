"""The calibration methods by name, and what runs one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from edgekit.export.calibration import CalibrationReader
from edgekit.export.calibrators.cache import CalibrationCache
from edgekit.export.calibrators.entropy import Entropy
from edgekit.export.calibrators.extremes import Outlier
from edgekit.export.calibrators.methods import RangeMethod, Ranges
from edgekit.export.calibrators.minmax import MinMax
from edgekit.export.calibrators.moving_average import MovingAverage
from edgekit.export.calibrators.mse import MeanSquaredError
from edgekit.export.calibrators.observe import observe
from edgekit.export.calibrators.percentile import Percentile
from edgekit.export.graph import digest
from edgekit.runtime.errors import InputError
from edgekit.runtime.progress import Progress

CALIBRATORS: dict[str, RangeMethod] = {
    "minmax": MinMax(),
    "moving-average": MovingAverage(),
    "percentile": Percentile(),
    "entropy": Entropy(),
    "mse": MeanSquaredError(),
}


class Calibrator:
    """A method at work: finds ranges, once for each model that it is asked about.

    Attributes:
        name: The method's key in `CALIBRATORS`.
        warnings: What the data made doubtful so far, one sentence each.
        used: Whether it was asked for any ranges.
        cache: What it found, and what other steps of a conversion learned from the same data.
    """

    def __init__(
        self,
        name: str,
        method: RangeMethod,
        *,
        levels: int = 256,
        cache: CalibrationCache | None = None,
    ) -> None:
        """Use a method for `levels` codes, and `cache` for what is asked again."""
        self.name = name
        self.warnings: tuple[str, ...] = ()
        self.used = False
        self._method = method
        self._levels = levels
        self.cache = CalibrationCache() if cache is None else cache

    @property
    def settings(self) -> Mapping[str, Any]:
        """The method's parameters, for a model's metadata."""
        return self._method.settings

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
            reader: Calibration data, the same each time.
            op_types: The operators that will be quantized.
            progress: Called with batches done and their total.

        Raises:
            DataError: the data is unusable, or does not fit the model.
            ModelFileError: a tensor is not finite on the data.
            InputError: the cache is of another model.
        """
        self.used = True
        key = digest(model, *sorted(op_types))
        known = self.cache.find(key)
        if known is None:
            seen = observe(
                model, reader, op_types, histograms=self._method.histograms, progress=progress
            )
            found = {
                name: self._method.range_of(tensor, self._levels)
                for name, tensor in seen.tensors.items()
            }
            warnings = (*reader.warnings(), *_outlier_warnings(seen.outliers, reader))
            known = self.cache.put(key, found, warnings)
        self.warnings = tuple(dict.fromkeys((*self.warnings, *known.warnings)))
        return dict(known.ranges)


def calibrator(
    method: str | Calibrator, *, levels: int = 256, cache: CalibrationCache | None = None
) -> Calibrator:
    """Look a calibration method up.

    Args:
        method: A key of `CALIBRATORS`, or a calibrator, which is returned as it is.
        levels: Codes that a range will have.
        cache: Ranges of earlier runs; by default one that lasts as long as the calibrator.

    Raises:
        InputError: there is none of that name.
    """
    if isinstance(method, Calibrator):
        return method
    if method not in CALIBRATORS:
        raise InputError(
            f"no calibration method {method!r}; choose one of {', '.join(CALIBRATORS)}"
        )
    return Calibrator(method, CALIBRATORS[method], levels=levels, cache=cache)


def _outlier_warnings(outliers: Sequence[Outlier], reader: CalibrationReader) -> list[str]:
    """One sentence a sample, on the tensor that it stretches most."""
    by_sample: dict[int, dict[str, Outlier]] = {}
    for outlier in outliers:
        by_sample.setdefault(outlier.sample, {})[outlier.tensor] = outlier
    warnings = []
    for sample, found in by_sample.items():
        worst = max(found.values(), key=lambda outlier: outlier.with_it / (outlier.without or 1e-9))
        others = f" and of {len(found) - 1} other tensors" if len(found) > 1 else ""
        warnings.append(
            f"{reader.sample_name(sample)} alone stretches the range of {worst.tensor!r} from "
            f"{worst.without:.3g} to {worst.with_it:.3g}{others}: look at it, or clip with "
            "--method percentile or mse"
        )
    return warnings
