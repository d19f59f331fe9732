"""A diagnosis in words, for people; `Diagnosis.to_json` has it for programs."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.bench.doctor import TOLERANCE
from edgekit.bench.speed_tables import TextTable
from edgekit.commands.doctor import Audited, Diagnosis


def diagnosis_pairs(found: Diagnosis) -> Iterator[tuple[str, str]]:
    """Names and values: the machine, its kernels, what is installed, the verdict."""
    machine, kernels, capabilities = found.machine, found.kernels, found.capabilities
    yield "cpu", f"{machine.cpu}, {machine.cores} cores"
    yield "instruction sets", ", ".join(machine.isa) or "none known"
    sums = "16-bit sums of pairs, which overflow" if kernels.saturates else "exact 32-bit sums"
    yield "int8 kernels", f"{kernels.name}: {sums}; {kernels.remark}"
    yield "quantize --target auto", found.target
    yield "versions", ", ".join(f"{name} {v}" for name, v in capabilities.versions.items())
    for extra in capabilities.extras:
        missing = f"no {', '.join(extra.missing)}" if extra.missing else "installed"
        yield f"extra {extra.name}", missing
    yield (
        "thresholds on codes",
        _thresholds(capabilities.thresholds_uint8, "uint8")
        + (f", {_thresholds(capabilities.thresholds_int8, 'int8')}"),
    )
    yield (
        "packed weights",
        "unpacked once, at load"
        if capabilities.unpacks_at_load
        else ("unpacked in every run: do not use --pack"),
    )
    yield "convolutions", f"{found.convolutions} random ones, seed {found.seed}"
    yield "verdict", "not exact" if found.inexact else f"exact, to {TOLERANCE} step of rounding"


def diagnosis_tables(found: Diagnosis) -> Iterator[TextTable]:
    """What became of the convolutions, and a model's layers that can overflow."""
    yield TextTable(
        "Convolutions in onnxruntime against exact integers",
        ("signs", "kernel", "run", "not exact", "largest error", "in exact mode", "worst"),
        tuple(
            (
                result.path.signs,
                result.path.kernel,
                str(result.convolutions),
                str(result.inexact),
                str(result.largest_error),
                "" if result.exact_mode_error is None else str(result.exact_mode_error),
                result.example,
            )
            for result in found.paths
        ),
    )
    if found.model is not None:
        yield audit_table(found.model)


def audit_table(audited: Audited) -> TextTable:
    """The layers of a model that can overflow."""
    found = audited.found
    return TextTable(
        f"{audited.path}: {found.overflowing} of {found.checked} layers of uint8 by int8 can "
        "overflow on AVX2 without VNNI, where sums end at 32767",
        ("layer", "operator", "channels", "can overflow", "in any order", "largest sum"),
        tuple(
            (
                layer.node,
                layer.op_type,
                str(layer.channels),
                str(layer.overflowing),
                str(layer.overflowing_any_order),
                str(layer.largest_sum),
            )
            for layer in found.layers
        ),
    )


def _thresholds(there: bool, kind: str) -> str:
    return f"{kind} yes" if there else f"{kind} no"
