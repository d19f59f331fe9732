"""The calibration methods by name, and what runs one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from edgekit.export.calibration import CalibrationReader
from edgekit.export.calibrators.cache import Calibrated, CalibrationCache
from edgekit.export.calibrators.entropy import Entropy
from edgekit.export.calibrators.extremes import Outlier
from edgekit.export.calibrators.methods import RangeMethod, Ranges
from edgekit.export.calibrators.minmax import MinMax
from edgekit.export.calibrators.moving_average import MovingAverage
from edgekit.export.calibrators.mse import MeanSquaredError
from edgekit.export.calibrators.observe import Observations, observe
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
# All of them, from which static.py takes what suits the model.
AUTO = "auto"


class Calibrator:
    """Methods at work: find ranges, once for each model that they are asked about.

    Attributes:
        name: A method's key in `CALIBRATORS`, or `AUTO`.
        warnings: What the data made doubtful so far, one sentence each.
        used: Whether it was asked for any ranges.
        cache: What it found, and what other steps of a conversion learned from the same data.
    """

    def __init__(
        self,
        name: str,
        methods: Mapping[str, RangeMethod],
        *,
        levels: int = 256,
        cache: CalibrationCache | None = None,
    ) -> None:
        """Use methods for `levels` codes, and `cache` for what is asked again."""
        self.name = name
        self.warnings: tuple[str, ...] = ()
        self.used = False
        self._methods = methods
        self._levels = levels
        self._histograms = any(method.histograms for method in methods.values())
        self.cache = CalibrationCache() if cache is None else cache

    @property
    def settings(self) -> Mapping[str, Any]:
        """All parameters that decide the ranges."""
        one = self._methods.get(self.name)
        if one is not None:
            return one.settings
        return {name: dict(method.settings) for name, method in self._methods.items()}

    def settings_of(self, method: str) -> Mapping[str, Any]:
        """The parameters of one of the methods, for a model's metadata."""
        return self._methods[method].settings

    def ranges(
        self,
        model: ir.Model,
        reader: CalibrationReader,
        op_types: Sequence[str],
        progress: Progress | None = None,
    ) -> Ranges:
        """The ranges that its method finds, the first one's where there are several.

        Args and errors are those of `candidates`.
        """
        return next(iter(self.candidates(model, reader, op_types, progress).values()))

    def candidates(
        self,
        model: ir.Model,
        reader: CalibrationReader,
        op_types: Sequence[str],
        progress: Progress | None = None,
    ) -> dict[str, Ranges]:
        """Find the range of every float tensor that nodes of `op_types` read or write.

        Args:
            model: A float32 model; it is not changed.
            reader: Calibration data, the same each time.
            op_types: The operators that will be quantized.
            progress: Called with batches done and their total.

        Returns:
            What each method finds, by the method's name.

        Raises:
            DataError: the data is unusable, or does not fit the model.
            ModelFileError: a tensor is not finite on the data.
            InputError: the cache is of another model.
        """
        self.used = True
        key = digest(model, *sorted(op_types))
        keys = {name: key if name == self.name else f"{key} {name}" for name in self._methods}
        seen: Observations | None = None
        known: dict[str, Calibrated] = {}
        for name, method in self._methods.items():
            calibrated = self.cache.find(keys[name])
            if calibrated is None:
                seen = seen or observe(
                    model, reader, op_types, histograms=self._histograms, progress=progress
                )
                ranges = {
                    held: method.range_of(o, self._levels) for held, o in seen.tensors.items()
                }
                warnings = (*reader.warnings(), *_outlier_warnings(seen.outliers, reader))
                calibrated = self.cache.put(keys[name], ranges, warnings)
            known[name] = calibrated
            self.warnings = tuple(dict.fromkeys((*self.warnings, *calibrated.warnings)))
        return {name: dict(one.ranges) for name, one in known.items()}


def calibrator(
    method: str | Calibrator, *, levels: int = 256, cache: CalibrationCache | None = None
) -> Calibrator:
    """Look a calibration method up.

    Args:
        method: A key of `CALIBRATORS`, `AUTO` for all, or a calibrator, which is returned as it is.
        levels: Codes that a range will have.
        cache: Ranges of earlier runs; by default one that lasts as long as the calibrator.

    Raises:
        InputError: there is none of that name.
    """
    if isinstance(method, Calibrator):
        return method
    if method not in (*CALIBRATORS, AUTO):
        raise InputError(
            f"no calibration method {method!r}; choose one of {', '.join((*CALIBRATORS, AUTO))}"
        )
    methods = CALIBRATORS if method == AUTO else {method: CALIBRATORS[method]}
    return Calibrator(method, methods, levels=levels, cache=cache)


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
