"""What a comparison found about speed beyond its main table, as text tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from edgekit.bench.baseline import Comparison
from edgekit.bench.latency import Ratio
from edgekit.bench.profile import Profile
from edgekit.bench.report.table import bytes_text, model_names
from edgekit.bench.results import BenchReport, ModelResult

SHOWN_OPERATORS = 8
NOTED_DIFFERENCE = 0.01


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        caption: What it shows.
        titles: Of the columns; all but the first hold figures.
        rows: A cell for each column.
    """

    caption: str
    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def speed_tables(report: BenchReport) -> Iterator[TextTable]:
    """Ratios, sweep, cold start, profile and LoadGen, as far as they were measured."""
    names = model_names([model.figures.path for model in report.models])
    named = list(zip(names, report.models, strict=True))
    if len(named) > 1:
        yield _ratios(named)
    if report.settings.sweep:
        yield _sweep(named)
    if any(model.cold_start for model in report.models):
        yield _cold_starts(named)
    for name, model in named:
        if model.profile is not None:
            yield _profile(name, model.profile)
    if report.settings.loadgen:
        yield _loadgen(named)


def speed_notes(report: BenchReport) -> list[str]:
    """What makes the latencies less than certain, a sentence each."""
    notes = [] if report.conditions is None else [f"{n}." for n in report.conditions.notes]
    if report.settings.warmup:
        unsettled = [
            PurePath(model.figures.path).name
            for model in report.models
            if model.timing is not None and not model.timing.warmup.stable
        ]
        if unsettled:
            notes.append(f"times had not settled after warm-up: {', '.join(unsettled)}.")
    for model in report.models:
        difference = model.difference_to_onnxruntime
        if difference is not None and difference > NOTED_DIFFERENCE:
            notes.append(
                f"{PurePath(model.figures.path).name}: {report.settings.engine}'s outputs differ "
                f"from onnxruntime's by up to {difference:.2g} times the largest."
            )
    return notes


def comparison_table(comparison: Comparison) -> TextTable:
    """A run beside its baseline."""
    rows = [
        (
            name,
            "same" if change.same_file else "changed",
            "" if change.drop_points is None else f"{0 - round(change.drop_points, 2):+.2f}",
            f"{bytes_text(change.file_bytes[1])} to {bytes_text(change.file_bytes[0])}",
            f"{change.macs[0] - change.macs[1]:+,}",
            _times(change.latency_ratio),
            _times(change.imt_ratio),
        )
        for name, change in zip(
            model_names([change.path for change in comparison.changes]),
            comparison.changes,
            strict=True,
        )
    ]
    titles = ("model", "file", "top-1 points", "size", "MACs", "p50", "IMT")
    caption = [f"Since {comparison.baseline} (edgekit {comparison.version}).", *comparison.notes]
    return TextTable("\n".join(caption), titles, tuple(rows))


def _ratios(named: Sequence[tuple[str, ModelResult]]) -> TextTable:
    rows = [
        (
            name,
            _times(model.timing.ratio.p50),
            _interval(model.timing.ratio),
            str(model.timing.warmup.runs),
            f"{model.latency.p99_ms:.3g}",
            f"{model.latency.throughput_ips:,.0f}",
        )
        for name, model in named
        if model.timing is not None
    ]
    return TextTable(
        "Median latency over the first model's, by bootstrap over interleaved rounds.",
        ("model", "p50 to first", "95% interval", "warm-up runs", "p99 ms", "images/s"),
        tuple(rows),
    )


def _sweep(named: Sequence[tuple[str, ModelResult]]) -> TextTable:
    rows = [
        (
            name,
            str(timing.threads),
            str(timing.batch_size),
            f"{timing.latency.p50_ms:.3g}",
            f"{timing.latency.p90_ms:.3g}",
            f"{timing.latency.throughput_ips:,.0f}",
            _times(timing.ratio.p50),
            _interval(timing.ratio),
        )
        for name, model in named
        for timing in model.sweep
    ]
    return TextTable(
        "Latency of a batch by threads and batch size; ratios to the first model alike.",
        ("model", "threads", "batch", "p50 ms", "p90 ms", "images/s", "to first", "95% interval"),
        tuple(rows),
    )


def _cold_starts(named: Sequence[tuple[str, ModelResult]]) -> TextTable:
    rows = []
    for name, model in named:
        if model.cold_start is not None:
            one = model.cold_start.median
            times = (one.import_ms, one.load_ms, one.first_run_ms)
            memory = (one.start_bytes, one.loaded_bytes, one.peak_bytes, one.steady_bytes)
            rows.append(
                (
                    name,
                    *(_ms(time) for time in times),
                    f"{model.latency.p50_ms:.3g}",
                    *("" if size is None else bytes_text(size) for size in memory),
                )
            )
    return TextTable(
        "Cold start and memory of a fresh process, medians; memory includes the engine.",
        (
            "model",
            "import ms",
            "load ms",
            "first run ms",
            "steady ms",
            "memory before",
            "loaded",
            "peak",
            "steady",
        ),
        tuple(rows),
    )


def _profile(name: str, profile: Profile) -> TextTable:
    shown = profile.operators[:SHOWN_OPERATORS]
    rows = [
        (row.op_type, str(row.nodes), str(row.inserted), f"{row.time_ms:.3g}", f"{row.share:.1%}")
        for row in shown
    ]
    rest = profile.operators[SHOWN_OPERATORS:]
    if rest:
        rows.append(
            (
                f"{len(rest)} more",
                str(sum(row.nodes for row in rest)),
                str(sum(row.inserted for row in rest)),
                f"{sum(row.time_ms for row in rest):.3g}",
                f"{sum(row.share for row in rest):.1%}",
            )
        )
    overhead = ", ".join(
        f"{kind} {one.share:.1%} ({one.inserted_share:.1%} inserted by onnxruntime)"
        for kind, one in profile.overhead.items()
    )
    caption = (
        f"{name}: {profile.nodes_ms:.3g} ms in nodes of {profile.run_ms:.3g} ms a run under the "
        f"profiler. Work beside the model's own: {overhead}."
    )
    titles = ("operator", "nodes", "fused or inserted", "ms a run", "share")
    return TextTable(caption, titles, tuple(rows))


def _loadgen(named: Sequence[tuple[str, ModelResult]]) -> TextTable:
    rows = [
        (
            name,
            run.scenario,
            "" if run.p90_latency_ms is None else f"{run.p90_latency_ms:.3g}",
            "" if run.samples_per_second is None else f"{run.samples_per_second:,.0f}",
            "valid" if run.valid else "invalid",
        )
        for name, model in named
        for run in model.loadgen
    ]
    return TextTable(
        "MLPerf LoadGen's own figures; a run this short is no MLPerf result.",
        ("model", "scenario", "p90 ms", "samples/s", "LoadGen says"),
        tuple(rows),
    )


def _ms(time: float) -> str:
    return f"{time:,.0f}" if time >= 100 else f"{time:.3g}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"


def _interval(ratio: Ratio) -> str:
    return "" if ratio.ci95 is None else f"{ratio.ci95[0]:.3f} to {ratio.ci95[1]:.3f}"
