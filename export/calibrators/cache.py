"""What calibration data taught, kept in a file with what it was learned from: learned once.

The file is JSON: a manifest of all that decides the ranges (method and its settings, data, a digest
of every sample, the preprocessing, edgekit's version), the version of onnxruntime that computed
them, and for each model that was calibrated the SHA-256 of its graph, its weights and the operators
to quantize, with the ranges. A file whose manifest or model is another is refused, never used and
never replaced unless told to. Beside the ranges it has the findings of the steps that follow, under
what ran them and the SHA-256 of all that decides them; a step whose finding is not there learns it,
and adds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgekit.export.calibrators.methods import Ranges
from edgekit.runtime.errors import InputError
from edgekit.runtime.files import write_text

CACHE_VERSION = 2
_LARGEST_BYTES = 1 << 28

# What a step of a conversion learned from the data, as JSON holds it.
Finding = Any
T = TypeVar("T")


@dataclass(frozen=True)
class Calibrated:
    """The ranges of a model's tensors, and what the data made doubtful."""

    ranges: Ranges
    warnings: tuple[str, ...]


class CalibrationCache:
    """What was learned from some calibration data; kept in memory.

    Ranges go by the digest of the model that they belong to, findings by that of all that decides
    them but for the data.
    """

    def __init__(self) -> None:
        self._models: dict[str, Calibrated] = {}
        self._findings: dict[str, Finding] = {}

    def find(self, digest: str) -> Calibrated | None:
        """The ranges of a model; None where they must be found."""
        return self._models.get(digest)

    def put(self, digest: str, ranges: Ranges, warnings: Sequence[str]) -> Calibrated:
        """Keep the ranges of a model."""
        self._models[digest] = Calibrated(ranges, tuple(warnings))
        return self._models[digest]

    def recall(self, key: str, learn: Callable[[], Finding], read: Callable[[Finding], T]) -> T:
        """What a step makes of its finding, which it learns where there is none.

        Args:
            key: Tells apart what leads to different findings on the same data.
            learn: Does the work.
            read: Makes the result of what was found; the same now and from a file.
        """
        if key not in self._findings:
            self._findings[key] = learn()
        return read(self._findings[key])


class CalibrationFile(CalibrationCache):
    """What a file keeps.

    Attributes:
        path: The file.
        reused: Whether all ranges come from it.
    """

    def __init__(
        self, path: Path, manifest: Mapping[str, Any], *, kernels: str = "", replace: bool = False
    ) -> None:
        """Read the file where it is there and `manifest` is its own.

        Args:
            path: The file.
            manifest: What decides the ranges, as JSON holds it.
            kernels: What runs integers here: findings of others are not this machine's.
            replace: Start anew instead of refusing what does not match.

        Raises:
            InputError: the file is damaged, or belongs to other data or settings.
        """
        super().__init__()
        self.path = path
        self.reused = False
        self._manifest = json.loads(json.dumps(manifest))
        self._kernels = kernels
        self._replace = replace
        self._of_this_run = False
        self._has_new_findings = False
        if path.exists():
            self._load()

    def _load(self) -> None:
        try:
            stored, models, findings = _read(self.path)
        except InputError:
            if self._replace:
                return
            raise
        differing = [key for key in self._manifest if stored.get(key) != self._manifest[key]]
        if not differing:
            self._models, self._findings, self.reused = models, findings, True
        elif not self._replace:
            raise self._stale(_difference(differing[0], stored, self._manifest))

    def find(self, digest: str) -> Calibrated | None:
        """The ranges of a model; None where they must be found.

        Raises:
            InputError: the file has ranges, but of other models.
        """
        known = super().find(digest)
        if known is None and self.reused:
            if not self._of_this_run and not self._replace:
                raise self._stale("the model, or what is done to it before calibration")
            self.reused = False
        self._of_this_run = True
        return known

    def recall(self, key: str, learn: Callable[[], Finding], read: Callable[[Finding], T]) -> T:
        """As in the memory alone.

        Raises:
            InputError: the file holds something else under that key.
        """
        key = f"{self._kernels} {key}"
        try:
            if key in self._findings:
                return read(self._findings[key])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if not self._replace:
                raise _damaged(self.path) from error
            del self._findings[key]
        self._has_new_findings = True
        return super().recall(key, learn, read)

    def save(self) -> None:
        """Write the file, unless all came from it.

        Raises:
            OutputError: it cannot be written.
        """
        if self.reused and not self._has_new_findings:
            return
        import onnxruntime

        content = {
            "calibration_cache_version": CACHE_VERSION,
            "onnxruntime": onnxruntime.__version__,
            "manifest": dict(self._manifest),
            "models": {digest: asdict(found) for digest, found in self._models.items()},
            "findings": self._findings,
        }
        write_text(self.path, json.dumps(content, indent=1) + "\n")

    def _stale(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: was calibrated otherwise: {what} differs; give another --calib-cache, "
            "or --force to calibrate anew and replace it"
        )


def _difference(key: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    values = [str(one.get(key)) for one in (stored, wanted)]
    short = all(len(value) <= 60 for value in values) and not key.endswith("digest")
    return f"{key} ({values[0]} there, {values[1]} now)" if short else key


def _damaged(path: Path) -> InputError:
    return InputError(
        f"{path}: is no file that --calib-cache wrote; name another, or give --force to replace it"
    )


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Calibrated], dict[str, Finding]]:
    """Manifest, ranges and findings of a file.

    Raises:
        InputError: it is none that `save` wrote.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ValueError
        content = json.loads(path.read_text("utf-8"))
        if content["calibration_cache_version"] != CACHE_VERSION:
            raise ValueError
        models = {
            str(digest): Calibrated(
                {str(name): _bounds(bounds) for name, bounds in found["ranges"].items()},
                tuple(map(str, found["warnings"])),
            )
            for digest, found in content["models"].items()
        }
        return dict(content["manifest"]), models, dict(content["findings"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error


def _bounds(bounds: Any) -> tuple[float, float]:
    low, high = map(float, bounds)
    if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high):
        raise ValueError
    return low, high
