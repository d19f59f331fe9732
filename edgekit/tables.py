"""Results on standard output: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rich.table import Table
from rich.text import Text

from edgekit import console
from edgekit.bench.figures import Figures
from edgekit.bench.graph_diff import Change, GraphDiff
from edgekit.bench.inspect_model import Inspection, Tensor
from edgekit.bench.report.table import bytes_text, columns, heading, notes
from edgekit.bench.results import BenchReport
from edgekit.bench.speed_tables import TextTable, comparison_table, speed_notes, speed_tables
from edgekit.commands.bench import BenchResult
from edgekit.commands.compare import CompareResult
from edgekit.commands.compare_text import comparison_pairs, comparison_tables
from edgekit.commands.doctor import Diagnosis
from edgekit.commands.doctor_text import diagnosis_pairs, diagnosis_tables
from edgekit.commands.export import ExportResult
from edgekit.commands.max_drop_text import search_options, search_pairs, search_table
from edgekit.commands.optimize import OptimizeResult
from edgekit.commands.predict import Prediction
from edgekit.commands.quantize import QuantizeResult
from edgekit.commands.study import RESULTS, SUMMARY, StudyResult
from edgekit.commands.study_results import COLUMNS as STUDY_COLUMNS
from edgekit.commands.train import TrainResult
from edgekit.export.executed import Executed
from edgekit.export.optimize import OptimizeReport
from edgekit.export.pack import PackReport
from edgekit.export.passes.table import PASSES
from edgekit.options import Format

if TYPE_CHECKING:
    from edgekit.train.prune_channels import ChannelPruning

# Refusals of one kind are listed by node up to here, then counted.
_LISTED_NODES = 3

# The counts of a comparison, with numbers of five digits.
_COUNTS_WIDTH = 56

Key = TypeVar("Key")


def print_run(result: TrainResult, format_: Format) -> None:
    """What training came to."""
    if format_ is Format.JSON:
        _print_json(asdict(result))
        return
    run = result.run
    state = "was finished before; --force trains anew" if run.was_finished else "finished"
    rows = [
        ("checkpoint", str(run.checkpoint)),
        ("run", state),
        ("validation top-1", _percent(run.last_accuracy)),
        ("best epoch's", _percent(run.best_accuracy)),
        ("speed", f"{run.images_per_second:,.0f} images/s"),
        ("training time", f"{run.seconds:,.0f} s"),
        *((f"setting {key}", str(value)) for key, value in result.settings.items()),
    ]
    _print(_pairs(rows))
    if run.channel_pruning is not None:
        _print(_channels_table(run.channel_pruning))


def _channels_table(cut: ChannelPruning) -> Table:
    table = _table("layer", ">channels before", ">after")
    for layer in cut.layers:
        table.add_row(layer.name, str(layer.before), str(layer.after))
    lines = [
        f"Parameters {cut.params_before:,} -> {cut.params_after:,}, "
        f"MACs {cut.macs_before:,} -> {cut.macs_after:,}.",
        *(f"Not cut: {reason}." for reason in cut.skipped),
    ]
    table.caption = "\n".join(lines)
    return table


def print_study(result: StudyResult, format_: Format) -> None:
    """The variants of a study, their seeds taken together."""
    if format_ is Format.JSON:
        _print_json(asdict(result))
        return
    table = Table(*STUDY_COLUMNS[:3], box=None, pad_edge=False)
    for column in STUDY_COLUMNS[3:]:
        table.add_column(column, justify="right")
    for summary in result.summaries:
        table.add_row(*summary.cells())
    _print(table)
    console.say(f"every run is in {result.folder / RESULTS}, this table in {SUMMARY} beside it")


def print_export(result: ExportResult, format_: Format) -> None:
    """What an export wrote, and how closely it agrees with torch."""
    if format_ is Format.JSON:
        _print_json(asdict(result))
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
    _print(_pairs(rows))
    if result.passes is not None:
        _print(*_optimize_tables(result.passes))


def print_passes() -> None:
    """The passes that `optimize` knows, in the order it runs them."""
    table = _table("pass", "what it does")
    for name, entry in PASSES.items():
        table.add_row(name, entry.summary)
    _print(table)


def print_optimize(result: OptimizeResult, format_: Format) -> None:
    """What each pass did, and what it refused."""
    if format_ is Format.JSON:
        _print_json(asdict(result))
        return
    _print(*_optimize_tables(result.report))
    rows = [
        _written(result.output, result.bytes_before, result.bytes_after),
        ("verified on", result.verified_on),
    ]
    _print(_pairs([*rows, *_packing_rows(result.packing)]))


def _optimize_tables(report: OptimizeReport) -> Iterable[Table]:
    table = _table("pass", ">changes", ">nodes before", ">after", ">largest error")
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
            listed = _table("pass", title, ">places", "nodes")
            for name, pairs in by_pass.items():
                for text, names in _by_reason(pairs).items():
                    listed.add_row(name, text, str(len(names)), _name_some(names))
            yield listed


def print_quantize(result: QuantizeResult, format_: Format) -> None:
    """What became of each node of a converted model."""
    report = result.report
    if format_ is Format.JSON:
        _print_json(asdict(result))
        return
    rows = [
        ("precision", report.precision),
        _written(result.output, result.bytes_before, result.bytes_after),
        *_packing_rows(result.packing),
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
    _print(_pairs(rows))
    if kept:
        _print_text_table(search_table(kept))
        console.output().print(Text(search_options(kept)), soft_wrap=True)
        console.output().print()
    table = _table("operator", ">converted", ">left in float32", "because", "nodes")
    for op_type, number in report.converted.items():
        table.add_row(op_type, str(number), "", "", "")
    for key, names in _by_reason(((n.op_type, n.reason), n.node) for n in report.left).items():
        table.add_row(key[0], "", str(len(names)), key[1], _name_some(names))
    _print(table, *(() if report.executed is None else [_executed_table(report.executed)]))
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
    table = _table("as onnxruntime runs it", ">nodes", "because", "where")
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


def print_bench(result: BenchResult, format_: Format) -> None:
    """Models side by side, then what else was measured, changed or checked."""
    if format_ is Format.JSON:
        _print_json(result.to_json())
        return
    _print_models(result.report)
    tables = list(speed_tables(result.report))
    if result.comparison is not None:
        tables.append(comparison_table(result.comparison))
    for text in tables:
        _print_text_table(text)
    for check in result.checks or ():
        console.output().print(Text(f"{'passed' if check.passed else 'FAILED'}: {check.message}"))


def _print_text_table(text: TextTable) -> None:
    first, *others = text.titles
    table = _table(first, *(f">{title}" for title in others))
    for row in text.rows:
        table.add_row(*(Text(cell) for cell in row))
    console.output().print()
    console.output().print(Text(text.caption))
    _print(table)


def _print_models(report: BenchReport) -> None:
    """Models side by side; one under the other where a terminal is too narrow for that."""
    described = columns(report)
    table = _table(described[0][0], *(f">{title}" for title, _ in described[1:]))
    for row in zip(*(cells for _, cells in described), strict=True):
        table.add_row(*row)
    caption = "\n".join([heading(report), *notes(report), *speed_notes(report)])
    if console.fits(table):
        table.caption = caption
        _print(table)
        return
    *models, last = zip(*(cells for _, cells in described), strict=True)
    titles = [title for title, _ in described]
    for model in models:
        _print(_pairs([*zip(titles, model, strict=True), ("", "")]))
    pairs = _pairs(zip(titles, last, strict=True))
    pairs.caption, pairs.caption_justify = caption, "left"
    _print(pairs)


def print_inspection(inspection: Inspection, format_: Format) -> None:
    """Totals and nodes of a model."""
    if format_ is Format.JSON:
        _print_json(inspection.to_json())
        return
    figures = inspection.figures
    rows = [
        ("file", f"{figures.path} ({bytes_text(figures.file_bytes)}, sha256 {figures.sha256})"),
        ("producer", inspection.producer or "not stated"),
        ("opset", str(figures.opset)),
        ("precision", figures.precision),
        *((f"input {tensor.name}", _described(tensor)) for tensor in inspection.inputs),
        *((f"output {tensor.name}", _described(tensor)) for tensor in inspection.outputs),
        ("parameters", f"{figures.params:,}, of which {figures.nonzero:,} are not zero"),
        ("stored values", f"{figures.stored_bits:,} bits"),
        ("MACs", f"{figures.macs:,}, of which {figures.effective_macs:,} with non-zero weights"),
        ("uncounted operators", ", ".join(figures.uncounted_ops) or "none"),
        ("peak activations", _peak(figures)),
        ("IMT score", f"{figures.score.imt:.5f}"),
        ("MicroNet 2019 score", f"{figures.score.micronet2019:.5f}"),
        *((f"setting {key}", str(value)) for key, value in asdict(figures.conventions).items()),
        *inspection.metadata.items(),
    ]
    table = _table("node", "operator", "output", ">params", ">non-zero", ">MACs", ">effective")
    for node in inspection.nodes:
        shape = "?" if node.output_shape is None else "x".join(map(str, node.output_shape))
        counts = (node.params, node.nonzero, node.macs, node.effective_macs)
        table.add_row(node.name, node.op_type, shape, *(f"{n:,}" if n else "" for n in counts))
    _print(_pairs(rows), table)


def _peak(figures: Figures) -> str:
    best, in_order = figures.peak_activation_bytes, figures.file_order_bytes
    if best is None or in_order is None:
        return "not known"
    proof = "" if best == figures.lower_bound_bytes else f", at least {figures.lower_bound_bytes:,}"
    return f"{best:,} bytes in the best order found{proof}; {in_order:,} in the file's order"


def print_diff(diff: GraphDiff, format_: Format) -> None:
    """What became of each node between two versions of a model."""
    if format_ is Format.JSON:
        _print_json(diff.to_json())
        return
    table = _table("node", "operator", "change", "what differs")
    table.min_width = _COUNTS_WIDTH  # a caption is folded at the table's width
    for node in diff.nodes:
        if node.change is not Change.SAME:
            name = node.before if node.after is None else node.after
            table.add_row(name, node.op_type, node.change.value, "; ".join(node.reasons))
    table.caption = ", ".join(f"{number} {change}" for change, number in diff.counts.items())
    _print(table)


def print_diagnosis(found: Diagnosis, format_: Format) -> None:
    """Whether int8 models run fast and exactly here."""
    if format_ is Format.JSON:
        _print_json(found.to_json())
        return
    _print(_pairs(diagnosis_pairs(found)))
    for text in diagnosis_tables(found):
        _print_text_table(text)
    for advice in found.advice:
        console.say(f"advice: {advice}")


def print_comparison(result: CompareResult, format_: Format, top: int) -> None:
    """Where two versions of a model differ."""
    if format_ is Format.JSON:
        _print_json(result.to_json())
        return
    _print(_pairs(comparison_pairs(result)))
    for text in comparison_tables(result, top):
        _print_text_table(text)
    for note in result.notes:
        console.say(f"note: {note}")


def print_predictions(predictions: Sequence[Prediction], format_: Format) -> None:
    """The likeliest classes of each image."""
    if format_ is Format.JSON:
        _print_json([asdict(prediction) for prediction in predictions])
        return
    table = _table("image", "class", ">probability")
    for prediction in predictions:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        for rank, (name, probability) in enumerate(pairs):
            table.add_row("" if rank else str(prediction.image), name, f"{probability:.2%}")
    _print(table)


def _print(*renderables: Table) -> None:
    output = console.output()
    for renderable in renderables:
        output.print(renderable)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def _table(*titles: str) -> Table:
    """A table with these columns; `>` in front of a title aligns its column to the right."""
    table = Table(box=None, header_style="bold", caption_justify="left", pad_edge=False)
    for title in titles:
        right = title.startswith(">")
        justify: Literal["left", "right"] = "right" if right else "left"
        table.add_column(title.removeprefix(">"), justify=justify, overflow="fold")
    return table


def _pairs(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _written(output: Path, before: int, after: int) -> tuple[str, str]:
    return "written", f"{output} ({bytes_text(before)} to {bytes_text(after)})"


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.2%}"


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _by_reason(pairs: Iterable[tuple[Key, str]]) -> dict[Key, list[str]]:
    grouped: dict[Key, list[str]] = {}
    for key, name in pairs:
        grouped.setdefault(key, []).append(name)
    return grouped


def _name_some(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_LISTED_NODES])
    more = len(names) - _LISTED_NODES
    return f"{listed} and {more} more" if more > 0 else listed
