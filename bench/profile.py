"""Where a model's time goes in onnxruntime, operator by operator: why is it not faster?

onnxruntime writes its own profile: one event a node and run, in microseconds. Here they are summed
by operator over the runs after warm-up. Three kinds of operators compute nothing that the model was
made for; what share they take, and how much of that onnxruntime itself put in while it prepared the
graph, tells whether a conversion pays.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.graph import nodes
from edgekit.runtime.errors import ModelFileError, reason_of
from edgekit.runtime.session import input_name, open_session

# Kind of work beside the model's own -> operators that do it.
OVERHEAD: dict[str, tuple[str, ...]] = {
    "cast": ("Cast",),
    "layout": ("Transpose", "ReorderInput", "ReorderOutput"),
    "quantize": ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
}
_KERNEL = "_kernel_time"
# What onnxruntime's rewrites put around the names of nodes.
_MARKS = re.compile("^InsertedPrecisionFreeCast_|_nchwc$|_token_[0-9]+$|^fused ")
_FUSED_DEPTH = 4


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph that onnxruntime runs.

    Attributes:
        name: Its name there.
        op_type: Its operator.
        time_ms: Its time in one run, the mean over all runs.
    """

    name: str
    op_type: str
    time_ms: float


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of one operator.

    Attributes:
        op_type: The operator, as onnxruntime runs it (fused, quantized).
        nodes: Nodes of it in the graph that onnxruntime runs.
        inserted: Those that are not in the file by that name: inserted, or fused from several.
        time_ms: Their time in one run, the mean over all runs.
        share: Of the time of all nodes, 0 to 1.
    """

    op_type: str
    nodes: int
    inserted: int
    time_ms: float
    share: float


@dataclass(frozen=True)
class Overhead:
    """Work of one kind beside the model's own.

    Attributes:
        share: Of the time of all nodes, 0 to 1.
        inserted_share: What of it went to nodes that are not in the file.
    """

    share: float
    inserted_share: float


@dataclass(frozen=True)
class Profile:
    """Where a model's time goes.

    Attributes:
        runs: Runs that were summed.
        run_ms: One run, the mean; the profiler makes small models much slower than they are.
        nodes_ms: The part that nodes took; the rest is onnxruntime's own work.
        operators: Slowest first.
        overhead: Kind of `OVERHEAD` -> what it took.
        nodes: Every node, in the order they run.
    """

    runs: int
    run_ms: float
    nodes_ms: float
    operators: tuple[OperatorTime, ...]
    overhead: Mapping[str, Overhead]
    nodes: tuple[NodeTime, ...]

    def to_json(self) -> dict[str, Any]:
        """The value of the key `profile`."""
        return {**asdict(self), "overhead": {k: asdict(v) for k, v in self.overhead.items()}}


def profile_model(
    path: Path,
    model: ir.Model,
    batch: NDArray[np.generic],
    *,
    threads: int = 1,
    warmup: int = 10,
    runs: int = 100,
) -> Profile:
    """Run a model under onnxruntime's profiler.

    Args:
        path: The file, validated before.
        model: The same, loaded; only its nodes' names are read.
        batch: What to run it on, of the type and shape that it takes.
        threads: Threads within an operator.
        warmup: Runs before those that count.
        runs: Runs that count.

    Raises:
        ModelFileError: onnxruntime cannot run the model or writes no profile.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-profile-") as folder:
        prefix = Path(folder) / "profile"
        session = open_session(path, threads=threads, profile_prefix=prefix, validate=False)
        feed = {input_name(session): batch}
        try:
            for _ in range(warmup + runs):
                session.run(None, feed)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelFileError(
                f"{path}: cannot run a batch of {len(batch)}: {reason_of(error)}"
            ) from error
        text = Path(session.end_profiling()).read_text("utf-8")
    try:
        return sum_profile(json.loads(text), in_file={str(n.name) for n in nodes(model)}, runs=runs)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: onnxruntime's profile cannot be read: {error}") from error


def node_shares(profile: Profile, model: ir.Model) -> dict[str, float]:
    """Share of the time of the nodes of a file, by name, as far as they can be told.

    A node that onnxruntime fused bears another name. Its marks are taken off; where it is then
    called after the activation that was fused into it, its time goes to the node of its own
    operator above that one. What onnxruntime inserted has no share.
    """
    by_name = {str(node.name): node for node in nodes(model)}
    shares: dict[str, float] = {}
    for run in profile.nodes:
        node = by_name.get(run.name)
        if node is None and not any(run.op_type in kind for kind in OVERHEAD.values()):
            node = _above(by_name.get(_MARKS.sub("", run.name)), run.op_type)
        if node is not None and profile.nodes_ms:
            key = str(node.name)
            shares[key] = shares.get(key, 0.0) + run.time_ms / profile.nodes_ms
    return shares


def _above(node: ir.Node | None, op_type: str) -> ir.Node | None:
    """A node, or the nearest above it, whose operator is, or became, this one."""
    for _ in range(_FUSED_DEPTH):
        if node is None or node.op_type in op_type:  # Conv in QLinearConv and FusedConv
            return node
        first = node.inputs[0] if node.inputs else None
        node = None if first is None else first.producer()
    return None


def sum_profile(events: Sequence[Mapping[str, Any]], in_file: set[str], runs: int) -> Profile:
    """Sum onnxruntime's profile over its last runs.

    Args:
        events: The profile, in Chrome's trace format; times in microseconds.
        in_file: Names of the nodes of the model's file.
        runs: How many runs to sum.

    Raises:
        ValueError: there are fewer runs in it.
    """
    whole = [event for event in events if event["name"] == "model_run"]
    whole.sort(key=lambda event: event["ts"])
    if len(whole) < runs:
        raise ValueError(f"{len(whole)} runs instead of {runs}")
    start = whole[-runs]["ts"]
    micros: dict[tuple[str, str], float] = defaultdict(float)
    for event in sorted(events, key=lambda event: event["ts"]):
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL) and event["ts"] >= start:
            name = event["name"].removesuffix(_KERNEL)
            micros[name, event["args"]["op_name"]] += event["dur"]
    total = sum(micros.values())
    operators: dict[str, list[str]] = defaultdict(list)
    for name, op_type in micros:
        operators[op_type].append(name)

    def share(op_types: Sequence[str], *, inserted: bool = False) -> float:
        taken = sum(
            time
            for (name, op_type), time in micros.items()
            if op_type in op_types and not (inserted and name in in_file)
        )
        return taken / total if total else 0.0

    rows = [
        OperatorTime(
            op_type,
            nodes=len(names),
            inserted=sum(name not in in_file for name in names),
            time_ms=sum(micros[name, op_type] for name in names) / runs / 1e3,
            share=share([op_type]),
        )
        for op_type, names in operators.items()
    ]
    return Profile(
        runs=runs,
        run_ms=sum(event["dur"] for event in whole[-runs:]) / runs / 1e3,
        nodes_ms=total / runs / 1e3,
        operators=tuple(sorted(rows, key=lambda row: -row.time_ms)),
        overhead={
            kind: Overhead(share(op_types), share(op_types, inserted=True))
            for kind, op_types in OVERHEAD.items()
        },
        nodes=tuple(
            NodeTime(name, op_type, time / runs / 1e3) for (name, op_type), time in micros.items()
        ),
    )
