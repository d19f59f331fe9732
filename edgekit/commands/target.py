"""The processor that `edgekit quantize` writes int8 models for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from edgekit.bench.doctor import machine_target
from edgekit.bench.machine import describe_machine
from edgekit.bench.saturation import audit
from edgekit.export.static_options import StaticOptions
from edgekit.export.targets import AUTO, find_target
from edgekit.runtime.errors import InputError

# The precisions whose kernels multiply codes; the others compute in floating point.
_INTEGER = ("int8", "dynamic-int8")


@dataclass(frozen=True)
class TargetChoice:
    """What the options of `quantize` ask for.

    Attributes:
        name: A key of export.targets.TARGETS, or `auto`, which is this machine; None for auto.
        reduce_range: Whether weights keep to 7 bits; None for what the processor needs.
    """

    name: str | None = None
    reduce_range: bool | None = None

    def check(self, precision: str) -> None:
        """Refuse options that mean nothing for a precision.

        Raises:
            InputError: the precision computes in floating point, or there is no such target.
        """
        given = {"--target": self.name, "--reduce-range": self.reduce_range}
        idle = [flag for flag, value in given.items() if value is not None]
        if idle and precision not in _INTEGER:
            raise InputError(
                f"{idle[0]} has no effect on {precision}, which computes in floating point: leave "
                f"it out, or give --precision {_INTEGER[0]}"
            )
        self.resolved()

    def resolved(self) -> str:
        """The target's name, this machine's for `auto`.

        Raises:
            InputError: there is no such target.
        """
        name = self.name or AUTO
        if name == AUTO:
            name = machine_target(describe_machine().isa)
        find_target(name)
        return name

    def tune(self, options: StaticOptions, precision: str) -> StaticOptions:
        """Those options with what suits the processor, for a precision that multiplies codes."""
        if precision not in _INTEGER:
            return options
        name = self.resolved()
        target = find_target(name)
        reduce = target.reduce_range if self.reduce_range is None else self.reduce_range
        return replace(options, target=name, activations=target.activations, reduce_range=reduce)

    def warnings(self, model: ir.Model, output: Path) -> Iterator[str]:
        """What a converted model risks on the processor, one line."""
        if self.resolved() != "avx2":
            return
        found = audit(model)
        if found.overflowing:
            yield (
                f"{found.overflowing} of {found.checked} layers can overflow on AVX2, with wrong "
                f"results: give --reduce-range; edgekit doctor {output} lists them"
            )
