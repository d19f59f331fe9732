"""Calibration: from what a model's tensors hold on real data to the range of each.

A new method is a file with one class of the `RangeMethod` protocol and a line in `CALIBRATORS`.
"""

from edgekit.export.calibrators.methods import Ranges
from edgekit.export.calibrators.table import AUTO, CALIBRATORS, Calibrator, calibrator

__all__ = ["AUTO", "CALIBRATORS", "Calibrator", "Ranges", "calibrator"]
