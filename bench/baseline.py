"""A comparison beside the results of an earlier one: what changed, model by model.

A model is the one of the same file name in the earlier run. Latencies are put in proportion only if
both runs were measured on the same processor, engine, threads, batch size and input shapes;
accuracies only if they are of the same images. What cannot be compared says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from edgekit.bench.report.results_file import Entry, Run

# Settings that latency depends on, and settings that accuracy on the same images depends on.
LATENCY_SETTINGS = ("engine", "threads", "batch_size", "input_shapes")
ACCURACY_SETTINGS = ("mean", "std")


@dataclass(frozen=True)
class Change:
    """One model, then and now.

    Attributes:
        path: The model now.
        same_file: Whether it is the same file, byte for byte.
        drop_points: Percentage points of top-1 accuracy lost; None where not comparable.
        file_bytes: Size now and then, in bytes.
        macs: Dense MACs now and then.
        latency_ratio: Median latency now over then; None where not comparable.
        imt_ratio: IMT score now over then; None where a run has none.
    """

    path: str
    same_file: bool
    drop_points: float | None
    file_bytes: tuple[int, int]
    macs: tuple[int, int]
    latency_ratio: float | None
    imt_ratio: float | None


@dataclass(frozen=True)
class Comparison:
    """A run beside its baseline.

    Attributes:
        baseline: The earlier run's file.
        version: The edgekit that wrote it.
        changes: The models that are in both, in the order of the new run.
        notes: What could not be compared, and why, a sentence each.
    """

    baseline: str
    version: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The value of the key `baseline`."""
        return {**asdict(self), "changes": [asdict(change) for change in self.changes]}

    def of(self, path: str) -> Change | None:
        """A model's change; None where the baseline has no such model."""
        return next((change for change in self.changes if change.path == path), None)


def compare_runs(now: Run, baseline: Run) -> Comparison:
    """Put a run beside an earlier one."""
    notes = []
    slower_or_faster = _differences(now, baseline, LATENCY_SETTINGS, (now.cpu, baseline.cpu))
    if slower_or_faster:
        notes.append(f"latency is not compared: {slower_or_faster}")
    images = _differences(now, baseline, ACCURACY_SETTINGS, (_images(now), _images(baseline)))
    if images:
        notes.append(f"accuracy is not compared: {images}")
    changes = []
    for entry in now.entries:
        before = _same_name(entry, baseline.entries)
        if before is None:
            notes.append(f"{entry.path} is not in the baseline")
        else:
            changes.append(_change(entry, before, bool(slower_or_faster), bool(images)))
    return Comparison(baseline.source, baseline.version, tuple(changes), tuple(notes))


def _images(run: Run) -> str:
    totals = [entry.accuracy.total for entry in run.entries if entry.accuracy]
    return f"{totals[0]} images of {run.data} {run.split}" if totals else "no data"


def _differences(now: Run, baseline: Run, settings: Sequence[str], named: tuple[str, str]) -> str:
    """How two runs differ in what a figure depends on; "" where they do not."""
    pairs = [named, *((now.settings.get(key), baseline.settings.get(key)) for key in settings)]
    names = ["", *(key.replace("_", " ") for key in settings)]
    return ", ".join(
        f"{name} {new!s} now, {old!s} then".strip()
        for name, (new, old) in zip(names, pairs, strict=True)
        if new != old
    )


def _same_name(entry: Entry, entries: Sequence[Entry]) -> Entry | None:
    exact = [one for one in entries if one.path == entry.path]
    alike = exact or [one for one in entries if _name(one) == _name(entry)]
    return alike[0] if len(alike) == 1 else None


def _name(entry: Entry) -> str:
    return PurePath(entry.path).name


def _change(now: Entry, then: Entry, other_machine: bool, other_images: bool) -> Change:
    drop = ratio = imt = None
    if now.accuracy and then.accuracy and not other_images:
        drop = (then.accuracy.top1 - now.accuracy.top1) * 100
    if then.p50_ms and not other_machine:
        ratio = now.p50_ms / then.p50_ms
    if now.imt is not None and then.imt:
        imt = now.imt / then.imt
    return Change(
        path=now.path,
        same_file=now.sha256 == then.sha256,
        drop_points=drop,
        file_bytes=(now.file_bytes, then.file_bytes),
        macs=(now.macs, then.macs),
        latency_ratio=ratio,
        imt_ratio=imt,
    )
