"""Results files as a report takes them: checked first, then one `Run` each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.report.json_object import JsonObject, printable, read_json
from edgekit.bench.results import SCHEMA_VERSION, BenchReport
from edgekit.runtime.errors import InputError

WHAT = "a results file of edgekit bench --format json"
# A drawing of more classes than this could not be read, and their lists would fill the memory.
MOST_CLASSES = 5_000


@dataclass(frozen=True)
class AccuracyEntry:
    """See `results.AccuracyFigures`."""

    correct: int
    total: int
    top1: float
    low: float
    high: float
    flips: int


@dataclass(frozen=True)
class NodeEntry:
    """A node's figures; 0 bits where it has no product, no share without a profile."""

    name: str
    op_type: str
    params: int
    nonzero: int
    macs: int
    effective_macs: int
    weight_bits: int
    activation_bits: int
    time_share: float | None


@dataclass(frozen=True)
class ConfusionEntry:
    """Images by true class (rows) and predicted class (columns): [classes, classes]."""

    class_names: tuple[str, ...]
    matrix: NDArray[np.float64]


@dataclass(frozen=True)
class NoiseEntry:
    """Signal-to-noise ratio of one tensor; None where nothing differs."""

    tensor: str
    op_type: str
    db: float | None


@dataclass(frozen=True)
class Entry:
    """One model of a results file; None is for what was not measured."""

    path: str
    sha256: str
    opset: int
    precision: str
    file_bytes: int
    accuracy: AccuracyEntry | None
    params: int
    nonzero: int
    stored_bits: int
    macs: int
    effective_macs: int
    uncounted_ops: tuple[str, ...]
    peak_activation_bytes: int | None
    p50_ms: float
    p90_ms: float
    throughput_ips: float
    peak_rss_bytes: int | None
    imt: float | None
    micronet2019: float | None
    nodes: tuple[NodeEntry, ...]
    confusion: ConfusionEntry | None
    noise_reference: str
    noise: tuple[NoiseEntry, ...]
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One results file.

    Attributes:
        source: The file; "" for a comparison that never was one.
        version: The edgekit that wrote it.
        cpu: The processor it ran on.
        onnxruntime: Version of the runtime.
        data: Data set; "" without one.
        split: Its part; "" without one.
        settings: How it ran, as written.
        entries: The models, the first of them the reference; at least one.
    """

    source: str
    version: str
    cpu: str
    onnxruntime: str
    data: str
    split: str
    settings: Mapping[str, Any]
    entries: tuple[Entry, ...]


def read_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read results files.

    Raises:
        InputError: one is missing, no JSON, of another schema version, or damaged.
    """
    return tuple(_run(read_json(path, WHAT), path) for path in paths)


def run_of(report: BenchReport) -> Run:
    """A comparison as its results file would be read."""
    return _run(JsonObject(report.to_json(), "results"), None)


def _run(root: JsonObject, path: Path | None) -> Run:
    found = root.value.get("schema_version")
    if found != SCHEMA_VERSION or isinstance(found, bool):
        had = "none" if found is None else printable(str(found))[:20]
        raise InputError(
            f"{path}: schema version {had}, and this edgekit reads version {SCHEMA_VERSION}: give "
            f"{WHAT}, written by this release"
        )
    machine, settings = root.object("machine"), root.object("settings")
    models = root.objects("models")
    if not models:
        raise InputError(f"{path}: holds no model; give {WHAT}")
    return Run(
        source="" if path is None else printable(str(path)),
        version=root.text("edgekit"),
        cpu=machine.text("cpu"),
        onnxruntime=machine.text("onnxruntime"),
        data=settings.text("data") if settings.has("data") else "",
        split=settings.text("split") if settings.has("split") else "",
        settings=settings.value,
        entries=tuple(_entry(model) for model in models),
    )


def _entry(model: JsonObject) -> Entry:
    params, macs, latency = model.object("params"), model.object("macs"), model.object("latency_ms")
    activations, score = model.object("activations"), model.object("score")
    noise = model.object("signal_to_noise") if model.has("signal_to_noise") else None
    return Entry(
        path=model.text("path"),
        sha256=model.text("sha256"),
        opset=model.count("opset"),
        precision=model.text("precision"),
        file_bytes=model.count("file_bytes"),
        accuracy=_accuracy(model.object("accuracy")) if model.has("accuracy") else None,
        params=params.count("total"),
        nonzero=params.count("nonzero"),
        stored_bits=params.count("stored_bits"),
        macs=macs.count("dense"),
        effective_macs=macs.count("effective"),
        uncounted_ops=macs.texts("uncounted_ops"),
        peak_activation_bytes=_count(activations, "peak_bytes"),
        p50_ms=latency.number("p50"),
        p90_ms=latency.number("p90"),
        throughput_ips=model.number("throughput_ips"),
        peak_rss_bytes=_count(model, "peak_rss_bytes"),
        imt=_number(score, "imt"),
        micronet2019=_number(score, "micronet2019"),
        nodes=tuple(_node(node) for node in model.objects("nodes")) if model.has("nodes") else (),
        confusion=_confusion(model.object("confusion")) if model.has("confusion") else None,
        noise_reference="" if noise is None else noise.text("reference"),
        noise=() if noise is None else tuple(_noise(one) for one in noise.objects("layers")),
        provenance=model.object("provenance").value if model.has("provenance") else {},
    )


def _accuracy(accuracy: JsonObject) -> AccuracyEntry:
    bounds = accuracy.numbers("ci95")
    if len(bounds) != 2:
        raise InputError(f"{accuracy.where}.ci95 must be two numbers; write the file again")
    return AccuracyEntry(
        correct=accuracy.count("correct"),
        total=accuracy.count("total"),
        top1=accuracy.number("top1"),
        low=bounds[0],
        high=bounds[1],
        flips=accuracy.count("flips_vs_first"),
    )


def _node(node: JsonObject) -> NodeEntry:
    return NodeEntry(
        name=node.text("name"),
        op_type=node.text("op_type"),
        params=node.count("params"),
        nonzero=node.count("nonzero"),
        macs=node.count("macs"),
        effective_macs=node.count("effective_macs"),
        weight_bits=_count(node, "weight_bits") or 0,
        activation_bits=_count(node, "activation_bits") or 0,
        time_share=_number(node, "time_share"),
    )


def _confusion(confusion: JsonObject) -> ConfusionEntry:
    names, rows = confusion.texts("class_names"), confusion.list("matrix")
    classes = len(names)
    fits = 0 < classes <= MOST_CLASSES and len(rows) == classes
    for row in rows if fits else ():
        fits = fits and isinstance(row, list) and len(row) == classes
        fits = fits and all(type(cell) is int and 0 <= cell < 2**53 for cell in row)
    if not fits:
        raise InputError(
            f"{confusion.where}.matrix must be {classes} rows of {classes} counts, one a class; "
            "write the file again"
        )
    return ConfusionEntry(names, np.array(rows, np.float64))


def _noise(layer: JsonObject) -> NoiseEntry:
    db = layer.number("db", least=None) if layer.has("db") else None
    return NoiseEntry(layer.text("tensor"), layer.text("op_type"), db)


def _number(holder: JsonObject, key: str) -> float | None:
    return holder.number(key) if holder.has(key) else None


def _count(holder: JsonObject, key: str) -> int | None:
    return holder.count(key) if holder.has(key) else None
