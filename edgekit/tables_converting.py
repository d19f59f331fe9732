"""What the commands that write a model print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from rich.table import Table
from rich.text import Text

from edgekit import console
from edgekit.bench.report.table import bytes_text
from edgekit.commands.export import ExportResult
from edgekit.commands.max_drop_text import search_options, search_pairs, search_table
from edgekit.commands.optimize import OptimizeResult
from edgekit.commands.quantize import QuantizeResult
from edgekit.export.executed import Executed
from edgekit.export.optimize import OptimizeReport
from edgekit.export.pack import PackReport
from edgekit.export.passes.table import PASSES
from edgekit.options import Format
from edgekit.tables import pairs, show, show_json, show_text_table, table_of, written

# Refusals of one kind are listed by node up to here, then counted.
_LISTED_NODES = 3


Key = TypeVar("Key")


def print_export(result: ExportResult, format_: Format) -> None:
    """What an export wrote, and how closely it agrees with torch."""
    if format_ is Format.JSON:
        show_json(asdict(result))
        return
    parity = result.parity
    rows = [
        ("written", f"{result.output} ({bytes_text(result.file_bytes)})"),
        ("opset", str(result.opset)),
        ("compared on", f"{parity.samples} images of {result.data}"),
        (
            "against torch",
            f"largest difference {parity.max_abs_error:.2g}, relative "
            f"{parity.max_rel_error:.2g}; top-1 agreement {parity.top1_agreement:.2%}",
        ),
    ]
    show(pairs(rows))
    if result.passes is not None:
        show(*_optimize_tables(result.passes))


def print_passes() -> None:
    """The passes that `optimize` knows, in the order it runs them."""
    table = table_of("pass", "what it does")
    for name, entry in PASSES.items():
        table.add_row(name, entry.summary)
    show(table)


def print_optimize(result: OptimizeResult, format_: Format) -> None:
    """What each pass did, and what it refused."""
    if format_ is Format.JSON:
        show_json(asdict(result))
        return
    show(*_optimize_tables(result.report))
    rows = [
        written(result.output, result.bytes_before, result.bytes_after),
        ("verified on", result.verified_on),
        *result.normalization.pairs,
    ]
    show(pairs([*rows, *_packing_rows(result.packing)]))


def _optimize_tables(report: OptimizeReport) -> Iterable[Table]:
    table = table_of("pass", ">changes", ">nodes before", ">after", ">largest error")
    for step in report.steps:
        error = "" if step.max_error is None else f"{step.max_error:.2g}"
        table.add_row(
            step.name, str(step.changed), str(step.nodes_before), str(step.nodes_after), error
        )
    if report.max_error is not None:
        table.caption = (
            f"Error: largest difference of an output, relative to its largest value. In all "
            f"{report.max_error:.2g}; the limit is {report.tolerance:.2g}."
        )
    policy = f"Batch norm: {report.batch_norm}."
    table.caption = f"{table.caption} {policy}" if table.caption else policy
    yield table
    done = {step.name: [(c.what, c.node) for c in step.done] for step in report.steps}
    refused = {step.name: [(r.reason, r.node) for r in step.refusals] for step in report.steps}
    for title, by_pass in (("what it did", done), ("left as it is, because", refused)):
        if any(by_pass.values()):
            listed = table_of("pass", title, ">places", "nodes")
            for name, pairs in by_pass.items():
                for text, names in _by_reason(pairs).items():
                    listed.add_row(name, text, str(len(names)), _name_some(names))
            yield listed


def print_quantize(result: QuantizeResult, format_: Format) -> None:
    """What became of each node of a converted model."""
    report = result.report
    if format_ is Format.JSON:
        show_json(asdict(result))
        return
    rows = [
        ("precision", report.precision),
        written(result.output, result.bytes_before, result.bytes_after),
        *_packing_rows(result.packing),
        *result.normalization.pairs,
        *(
            (f"setting {key}", str(value))
            for key, value in report.settings.items()
            if key != "refinements"
        ),
        *((one["step"], _refinement(one)) for one in report.settings.get("refinements", ())),
    ]
    if agreement := result.agreement:
        rows.append(("agreement with float", str(agreement)))
    if cache := result.calibration_cache:
        rows.append(("calibration", str(cache)))
    if drop := result.drop:
        rows.append(("top-1 drop", str(drop)))
    if kept := result.kept_layers:
        rows += search_pairs(kept)
    show(pairs(rows))
    if kept:
        show_text_table(search_table(kept))
        console.output().print(Text(search_options(kept)), soft_wrap=True)
        console.output().print()
    table = table_of("operator", ">converted", ">left in float32", "because", "nodes")
    for op_type, number in report.converted.items():
        table.add_row(op_type, str(number), "", "", "")
    for key, names in _by_reason(((n.op_type, n.reason), n.node) for n in report.left).items():
        table.add_row(key[0], "", str(len(names)), key[1], _name_some(names))
    show(table, *(() if report.executed is None else [_executed_table(report.executed)]))
    for note in report.notes:
        console.say(f"note: {note}")


def _refinement(trial: Mapping[str, Any]) -> str:
    before, after = (
        "no noise" if trial[key] is None else f"{trial[key]:.1f} dB"
        for key in ("before_db", "after_db")
    )
    return f"{trial['what']}: {before} to {after}, {'kept' if trial['kept'] else 'not kept'}"


def _executed_table(ran: Executed) -> Table:
    """What is no integer operator in the graph that onnxruntime runs, and why."""
    table = table_of("as onnxruntime runs it", ">nodes", "because", "where")
    others = [(n, f"in float32: {n.reason}") for n in ran.in_float]
    others += [(n, n.reason) for n in ran.conversions]
    beside = Counter(node.op_type for node, _ in others)
    for op_type, number in (Counter(ran.nodes) - beside).items():
        table.add_row(op_type, str(number), "", "")
    for key, names in _by_reason(((n.op_type, why), n.node) for n, why in others).items():
        table.add_row(key[0], str(len(names)), key[1], _name_some(names))
    return table


def _packing_rows(report: PackReport | None) -> Iterable[tuple[str, str]]:
    """How weights were packed, and what a codebook did to the outputs."""
    if report is None:
        return
    counts = Counter(report.tensors.values())
    stored = ", ".join(f"{number} as {storage}" for storage, number in counts.items())
    shared = f"{report.others} vectors in shared blobs"
    yield "packed", f"{report.form}: {stored + '; ' if stored else ''}{shared}"
    yield "unpacked by", "onnxruntime at load, checked: the same graph, equal outputs"
    if report.max_error is not None:
        yield (
            "codebook",
            f"{report.codebook} bits; largest difference of an output {report.max_error:.2g} "
            "of its largest value",
        )
    for note in report.notes:
        console.say(f"note: {note}")


def _by_reason(pairs: Iterable[tuple[Key, str]]) -> dict[Key, list[str]]:
    grouped: dict[Key, list[str]] = {}
    for key, name in pairs:
        grouped.setdefault(key, []).append(name)
    return grouped


def _name_some(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_LISTED_NODES])
    more = len(names) - _LISTED_NODES
    return f"{listed} and {more} more" if more > 0 else listed
