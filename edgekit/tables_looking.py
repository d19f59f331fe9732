"""What the commands that look into one thing print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from edgekit import console
from edgekit.bench.figures import Figures
from edgekit.bench.graph_diff import Change, GraphDiff
from edgekit.bench.inspect_model import Inspection, Tensor
from edgekit.bench.report.table import bytes_text
from edgekit.commands.doctor import Diagnosis
from edgekit.commands.doctor_text import diagnosis_pairs, diagnosis_tables
from edgekit.commands.predict import Prediction
from edgekit.options import Format
from edgekit.tables import COUNTS_WIDTH, pairs, show, show_json, show_text_table, table_of

if TYPE_CHECKING:
    pass


def print_inspection(inspection: Inspection, format_: Format) -> None:
    """Totals and nodes of a model."""
    if format_ is Format.JSON:
        show_json(inspection.to_json())
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
        ("IMT score", f"{figures.score.imt:.3g}"),
        ("MicroNet 2019 score", f"{figures.score.micronet2019:.3g}"),
        *((f"setting {key}", str(value)) for key, value in asdict(figures.conventions).items()),
        *inspection.metadata.items(),
    ]
    table = table_of("node", "operator", "output", ">params", ">non-zero", ">MACs", ">effective")
    for node in inspection.nodes:
        shape = "?" if node.output_shape is None else "x".join(map(str, node.output_shape))
        counts = (node.params, node.nonzero, node.macs, node.effective_macs)
        table.add_row(node.name, node.op_type, shape, *(f"{n:,}" if n else "" for n in counts))
    show(pairs(rows), table)


def _peak(figures: Figures) -> str:
    best, in_order = figures.peak_activation_bytes, figures.file_order_bytes
    if best is None or in_order is None:
        return "not known"
    proof = "" if best == figures.lower_bound_bytes else f", at least {figures.lower_bound_bytes:,}"
    return f"{best:,} bytes in the best order found{proof}; {in_order:,} in the file's order"


def print_diff(diff: GraphDiff, format_: Format) -> None:
    """What became of each node between two versions of a model."""
    if format_ is Format.JSON:
        show_json(diff.to_json())
        return
    table = table_of("node", "operator", "change", "what differs")
    table.min_width = COUNTS_WIDTH  # a caption is folded at the table's width
    for node in diff.nodes:
        if node.change is not Change.SAME:
            name = node.before if node.after is None else node.after
            table.add_row(name, node.op_type, node.change.value, "; ".join(node.reasons))
    table.caption = ", ".join(f"{number} {change}" for change, number in diff.counts.items())
    show(table)


def print_diagnosis(found: Diagnosis, format_: Format) -> None:
    """Whether int8 models run fast and exactly here."""
    if format_ is Format.JSON:
        show_json(found.to_json())
        return
    show(pairs(diagnosis_pairs(found)))
    for text in diagnosis_tables(found):
        show_text_table(text)
    for advice in found.advice:
        console.say(f"advice: {advice}")


def print_predictions(predictions: Sequence[Prediction], format_: Format) -> None:
    """The likeliest classes of each image."""
    if format_ is Format.JSON:
        show_json([asdict(prediction) for prediction in predictions])
        return
    table = table_of("image", "class", ">probability")
    for prediction in predictions:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        for rank, (name, probability) in enumerate(pairs):
            table.add_row("" if rank else str(prediction.image), name, f"{probability:.2%}")
    show(table)


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
