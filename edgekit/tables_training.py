"""What the commands that train print."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from edgekit import console
from edgekit.commands.study import RESULTS, SUMMARY, StudyResult
from edgekit.commands.study_results import COLUMNS as STUDY_COLUMNS
from edgekit.commands.train import TrainResult
from edgekit.options import Format
from edgekit.tables import pairs, percent, show, show_json, table_of

if TYPE_CHECKING:
    from edgekit.train.prune_channels import ChannelPruning


def print_run(result: TrainResult, format_: Format) -> None:
    """What training came to."""
    if format_ is Format.JSON:
        show_json(asdict(result))
        return
    run = result.run
    state = "was finished before; --force trains anew" if run.was_finished else "finished"
    rows = [
        ("checkpoint", str(run.checkpoint)),
        ("run", state),
        ("validation top-1", percent(run.last_accuracy)),
        ("best epoch's", percent(run.best_accuracy)),
        ("speed", f"{run.images_per_second:,.0f} images/s"),
        ("training time", f"{run.seconds:,.0f} s"),
        *((f"setting {key}", str(value)) for key, value in result.settings.items()),
    ]
    show(pairs(rows))
    if run.channel_pruning is not None:
        show(_channels_table(run.channel_pruning))


def _channels_table(cut: ChannelPruning) -> Table:
    table = table_of("layer", ">channels before", ">after")
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
    """The variants of a study, their seeds taken together, and what failed."""
    _print_study(result, format_)
    for folder, reason in result.failures.items():
        console.say(f"failed: {folder}: {reason}")


def _print_study(result: StudyResult, format_: Format) -> None:
    if format_ is Format.JSON:
        show_json(asdict(result))
        return
    table = table_of(*STUDY_COLUMNS[:3], *(f">{column}" for column in STUDY_COLUMNS[3:]))
    for summary in result.summaries:
        table.add_row(*summary.cells())
    show(table)
    if result.elsewhere:
        console.say(
            f"at work in other processes: {', '.join(result.elsewhere)}; run the study again when "
            "they are done"
        )
    if result.rows:
        console.say(f"every run is in {result.folder / RESULTS}, this table in {SUMMARY} beside it")
