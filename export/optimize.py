"""Run graph passes, each checked against what it replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.graph import graphs, metadata, nodes, set_metadata
from edgekit.export.passes.base import Change, GraphPass, Refusal
from edgekit.export.passes.table import PASSES
from edgekit.export.passes.turn_batch_norm_into_threshold import Policy, TurnBatchNormIntoThreshold
from edgekit.export.quiet import quiet
from edgekit.export.random_draws import draws
from edgekit.export.verify import largest_difference, random_inputs, run_outputs, tolerance
from edgekit.runtime.errors import InputError, ModelFileError, PassError
from edgekit.runtime.progress import Progress

Arrays = Mapping[str, NDArray[Any]]

METADATA_KEY = "edgekit.passes"
BATCH_NORM_KEY = "edgekit.batch_norm"
# What one pass removes can uncover work for another; models met so far settle in two rounds.
_ROUNDS = 4


@dataclass(frozen=True)
class PassReport:
    """What one pass did, over all rounds.

    Attributes:
        name: Its name in the table of passes.
        changed: What it changed: nodes or channels folded or removed.
        refusals: What it left at the end, and why.
        max_error: The largest error of an output after it, relative to that output's largest
            absolute value; None where it was not measured, or nothing changed.
        nodes_before: Nodes of the model before its first run.
        nodes_after: Nodes of the model after its last run.
        done: What it did where, of passes that say so, in the order of the rounds.
    """

    name: str
    changed: int
    refusals: tuple[Refusal, ...]
    max_error: float | None
    nodes_before: int
    nodes_after: int
    done: tuple[Change, ...] = ()


@dataclass(frozen=True)
class OptimizeReport:
    """What an optimization did.

    Attributes:
        steps: One report for each pass, in order.
        max_error: Error of the final model against the first, as in PassReport; None unverified.
        tolerance: The error that no pass exceeded; None unverified.
        batch_norm: The policy on what is left of batch norm.
    """

    steps: tuple[PassReport, ...]
    max_error: float | None
    tolerance: float | None
    batch_norm: Policy = "auto"


def optimize(
    model: ir.Model,
    passes: Sequence[str] | None = None,
    *,
    batch_norm: Policy = "auto",
    verify: bool = True,
    inputs: Arrays | None = None,
    progress: Progress | None = None,
) -> OptimizeReport:
    """Rewrite a model in place, pass by pass, until nothing changes.

    The names of the passes are added to the model's metadata. After an error the model may hold a
    part of the rewrites: drop it.

    Args:
        model: The model.
        passes: Names from the table of passes, in the order to run; all of them where None.
        batch_norm: The policy of turn-batch-norm-into-threshold, if that is among them.
        verify: Run the model before and after each pass that changed it, and compare the outputs.
        inputs: What to run it on, an array for each input; random numbers where None.
        progress: Called after each pass of a round with the number done and their total.

    Raises:
        InputError: a name is not in the table.
        ModelFileError: the model cannot be run, or inputs for it cannot be made up.
        PassError: a pass failed, or changed an output by more than the tolerance.
    """
    names = check_names(passes)
    check = _Check(model, inputs) if verify else None
    reports: dict[str, PassReport] = {}
    size = _size(model)
    idle: set[str] = set()  # passes since whose last run nothing has changed
    for _ in range(_ROUNDS):
        for done, name in enumerate(names, start=1):
            if name not in idle:
                report, size = _run_pass(model, name, names[: done - 1], check, batch_norm, size)
                reports[name] = _merge(reports[name], report) if name in reports else report
                idle = set() if report.changed else {*idle, name}
            if progress is not None:
                progress(done, len(names))
        if len(idle) == len(names):
            break
    _record(model, names, batch_norm)
    return OptimizeReport(
        steps=tuple(reports.values()),
        max_error=check.total_error if check else None,
        tolerance=check.tolerance if check else None,
        batch_norm=batch_norm,
    )


def check_names(passes: Sequence[str] | None) -> tuple[str, ...]:
    """The passes to run: those named, or all.

    Raises:
        InputError: a name is not in the table.
    """
    names = tuple(PASSES) if passes is None else tuple(dict.fromkeys(passes))
    for name in names:
        if name not in PASSES:
            raise InputError(f"no pass is named {name!r}; there are {', '.join(PASSES)}")
    return names


class _Check:
    """Runs the model on the same inputs after each pass, and compares with the run before it."""

    def __init__(self, model: ir.Model, inputs: Arrays | None) -> None:
        self._model = model
        self._inputs = random_inputs(model) if inputs is None else inputs
        random = sorted({node.op_type for node in nodes(model) if draws(node, self._inputs)})
        if random:
            raise ModelFileError(
                f"the model draws random numbers ({', '.join(random)}), so that two runs cannot be "
                "compared: skip the check with --no-verify"
            )
        try:
            self._first = self._last = run_outputs(model, self._inputs)
        except ModelFileError as error:
            raise _with_hint(error) from error
        self.tolerance = tolerance(model)
        self.total_error = 0.0

    def measure(self, name: str, earlier: Sequence[str]) -> float:
        """The error of the pass that has just run.

        Raises:
            PassError: it is above the tolerance, or the model no longer runs.
        """
        after = f" (after {', '.join(earlier)})" if earlier else ""
        try:
            outputs = run_outputs(self._model, self._inputs)
        except ModelFileError as broken:
            raise PassError(
                f"pass {name}{after} left a model that does not run: {broken}"
            ) from broken
        error = largest_difference(self._last, outputs)
        if not error <= self.tolerance:
            raise PassError(
                f"pass {name}{after} changed the model's outputs by {error:.2g} of their largest "
                f"value, more than {self.tolerance:.2g}: leave it out with --passes"
            )
        self._last = outputs
        self.total_error = largest_difference(self._first, outputs)
        return error


def _with_hint(error: ModelFileError) -> ModelFileError:
    hint = "--no-verify"
    message = str(error)
    return error if hint in message else ModelFileError(f"{message}; skip the check with {hint}")


def _run_pass(
    model: ir.Model,
    name: str,
    earlier: Sequence[str],
    check: _Check | None,
    batch_norm: Policy,
    size_before: tuple[int, int],
) -> tuple[PassReport, tuple[int, int]]:
    """Run one pass; returns what it did, and the model's size after it."""
    transform = PASSES[name].factory()
    if isinstance(transform, TurnBatchNormIntoThreshold):
        transform.policy = batch_norm
    try:
        with quiet():
            modified = transform(model).modified
    except Exception as error:  # whatever a third party's pass meets
        reason = " ".join(str(error.__cause__ or error).split())
        raise PassError(f"pass {name} failed ({reason}): leave it out with --passes") from error
    size_after = _size(model) if modified else size_before
    changed = 0
    refusals: tuple[Refusal, ...] = ()
    done: tuple[Change, ...] = ()
    if isinstance(transform, GraphPass):
        changed, refusals = transform.changes, tuple(transform.refusals)
        done = tuple(transform.done)
    elif modified:
        changed = max(1, sum(size_before) - sum(size_after))
    report = PassReport(
        name=name,
        changed=changed,
        refusals=refusals,
        max_error=check.measure(name, earlier) if check and changed else None,
        nodes_before=size_before[0],
        nodes_after=size_after[0],
        done=done,
    )
    return report, size_after


def _size(model: ir.Model) -> tuple[int, int]:
    """Nodes and initializers."""
    return sum(1 for _ in nodes(model)), sum(len(graph.initializers) for graph in graphs(model))


def _merge(first: PassReport, later: PassReport) -> PassReport:
    errors = [error for error in (first.max_error, later.max_error) if error is not None]
    return replace(
        later,
        changed=first.changed + later.changed,
        max_error=max(errors, default=None),
        nodes_before=first.nodes_before,
        done=first.done + later.done,
    )


def _record(model: ir.Model, names: Sequence[str], batch_norm: Policy) -> None:
    try:
        recorded = json.loads(metadata(model).get(METADATA_KEY, "[]"))
    except (ValueError, RecursionError):
        recorded = []
    earlier = [str(name) for name in recorded] if isinstance(recorded, list) else []
    if any(PASSES[name].factory is TurnBatchNormIntoThreshold for name in names):
        set_metadata(model, {BATCH_NORM_KEY: batch_norm})
    set_metadata(model, {METADATA_KEY: json.dumps(list(dict.fromkeys([*earlier, *names])))})
