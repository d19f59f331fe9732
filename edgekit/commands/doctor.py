"""`edgekit doctor`: whether int8 models run fast and exactly here, and what a model risks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit import __version__, console
from edgekit.bench.capabilities import Capabilities, find_capabilities
from edgekit.bench.doctor import (
    TOLERANCE,
    PathResult,
    check_convolutions,
    draw_convolutions,
    machine_target,
)
from edgekit.bench.int8_kernels import Int8Kernels, int8_kernels
from edgekit.bench.machine import Machine, describe_machine
from edgekit.bench.saturation import SaturationAudit, audit_file
from edgekit.runtime.errors import ExactnessError
from edgekit.runtime.session import EXACT_INTEGERS

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Audited:
    """A model file and its layers that can overflow."""

    path: Path
    found: SaturationAudit


@dataclass(frozen=True)
class Diagnosis:
    """What there is to know about int8 on this machine.

    Attributes:
        machine: The machine.
        kernels: The int8 kernels that its instruction sets stand for.
        target: What `quantize --target auto` takes here.
        capabilities: What is installed.
        convolutions: How many random ones were run.
        seed: What drew them.
        paths: What became of them, by kernel.
        model: A model's layers that can overflow; None where none was given.
    """

    machine: Machine
    kernels: Int8Kernels
    target: str
    capabilities: Capabilities
    convolutions: int
    seed: int
    paths: tuple[PathResult, ...]
    model: Audited | None

    @property
    def inexact(self) -> tuple[PathResult, ...]:
        """Kernels that were off by more than a step."""
        return tuple(path for path in self.paths if path.inexact)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do about it, one sentence each; empty where all is well."""
        return tuple(_advice(self))

    def check(self) -> None:
        """Fail where onnxruntime is not exact.

        Raises:
            ExactnessError: a convolution was off by more than a step.
        """
        if self.inexact:
            worst = max(self.inexact, key=lambda result: result.largest_error)
            raise ExactnessError(
                f"{sum(result.inexact for result in self.inexact)} of {self.convolutions} "
                f"convolutions are not exact here ({', '.join(str(r.path) for r in self.inexact)}; "
                f"up to {worst.largest_error} steps off): {self.advice[0]}"
            )

    def to_json(self) -> dict[str, Any]:
        """What `--format json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "edgekit": __version__,
            "machine": {**asdict(self.machine), "int8_kernels": asdict(self.kernels)},
            "target": self.target,
            "capabilities": asdict(self.capabilities),
            "exactness": {
                "convolutions": self.convolutions,
                "seed": self.seed,
                "tolerance_steps": TOLERANCE,
                "exact": not self.inexact,
                "paths": [_path_json(result) for result in self.paths],
            },
            "saturation": None if self.model is None else _audit_json(self.model),
            "advice": list(self.advice),
        }


def diagnose(model: Path | None, *, convolutions: int, seed: int) -> Diagnosis:
    """Look at the machine, run random convolutions and check a model.

    Args:
        model: A quantized model to look for layers in that can overflow on AVX2.
        convolutions: How many random convolutions to run.
        seed: Draws them.

    Raises:
        ModelFileError: the model cannot be read.
    """
    audited = None if model is None else Audited(model, audit_file(model))
    machine = describe_machine()
    with console.progress("convolutions against exact integers") as advance:
        paths = check_convolutions(draw_convolutions(convolutions, seed), advance)
    return Diagnosis(
        machine=machine,
        kernels=int8_kernels(machine.isa),
        target=machine_target(machine.isa),
        capabilities=find_capabilities(),
        convolutions=convolutions,
        seed=seed,
        paths=paths,
        model=audited,
    )


def _advice(found: Diagnosis) -> list[str]:
    advice = []
    mixed = [result for result in found.inexact if result.path.signs == "U8S8"]
    mended = all((result.exact_mode_error or 0) <= TOLERANCE for result in mixed)
    if mixed and mended:
        advice.append(
            "quantize with --target avx2 or --reduce-range, which keeps weights to 7 bits, or set "
            f"{EXACT_INTEGERS} to 1 in onnxruntime's session, which is exact and slower"
        )
    elif mixed:
        advice.append(
            "quantize with --target avx2 or --reduce-range, which keeps weights to 7 bits"
        )
    others = sorted({str(r.path) for r in found.inexact if r.path.signs != "U8S8"})
    if others:
        advice.append(f"do not trust int8 models on this onnxruntime ({', '.join(others)})")
    if found.model is not None and found.model.found.overflowing:
        where = "here" if mixed else "on processors with AVX2 but no VNNI"
        advice.append(
            f"{found.model.path} can overflow {where}: for such processors quantize with "
            "--target avx2"
        )
    return advice


def _path_json(result: PathResult) -> dict[str, Any]:
    return {
        "signs": result.path.signs,
        "kernel": result.path.kernel,
        "convolutions": result.convolutions,
        "inexact": result.inexact,
        "largest_error_steps": result.largest_error,
        "exact_mode_error_steps": result.exact_mode_error,
        "example": result.example,
    }


def _audit_json(audited: Audited) -> dict[str, Any]:
    return {
        "path": str(audited.path),
        "layers_checked": audited.found.checked,
        "layers_overflowing": audited.found.overflowing,
        "layers": [asdict(layer) for layer in audited.found.layers],
    }
