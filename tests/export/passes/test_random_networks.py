"""Random networks through every pass: what it computes, and what a second run changes.

EDGEKIT_RANDOM_GRAPHS says how many networks the slow run takes.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from naive_fold import NaiveFold
from pass_trials import ALL, LARGEST_ERROR, Factory, Trial
from random_networks import networks

from edgekit.export.optimize import optimize

NINETY_NINE_IN_A_HUNDRED = 2e-6
EXAMPLES = int(os.environ.get("EDGEKIT_RANDOM_GRAPHS", "2000"))

Errors = dict[str, list[float]]


class Optimize(ir.passes.InPlacePass):
    """All passes until nothing changes, as one."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        report = optimize(model, verify=False)
        return ir.passes.PassResult(model, any(step.changed for step in report.steps))


def run_each(passes: dict[str, Factory], examples: int, *, shrink: bool = True) -> Errors:
    """Run each pass on so many networks; the errors of those that changed one, once for each.

    Hypothesis draws the same network again where constants of the modules that are loaded gave it.

    Raises:
        AssertionError: a pass broke a network, or changes it again when run again.
    """
    errors: dict[str, dict[bytes, float]] = defaultdict(dict)

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(networks())
    def run(proto: onnx.ModelProto) -> None:
        trial = Trial.of(proto)
        for name, factory in passes.items() if trial else ():
            after = trial.after(trial.data, name, factory)
            if after is trial.data:
                continue
            error = errors[name][trial.data] = trial.error(after, name)
            assert error <= LARGEST_ERROR, name
            assert trial.after(after, name, factory) is after, f"{name} changes its own result"

    run()
    return defaultdict(list, {name: list(found.values()) for name, found in errors.items()})


def check(errors: Errors, passes: Iterable[str], least: int) -> None:
    for name in passes:
        assert len(errors[name]) >= least, f"{name} changed {len(errors[name])} networks"
        assert np.percentile(errors[name], 99) <= NINETY_NINE_IN_A_HUNDRED, name


def test_every_pass_keeps_what_random_networks_compute() -> None:
    run_each(ALL, 50)


@pytest.mark.slow
def test_every_pass_keeps_what_many_random_networks_compute() -> None:
    check(run_each(ALL, EXAMPLES), ALL, least=EXAMPLES // 400)


@pytest.mark.slow
def test_all_passes_together_keep_what_many_random_networks_compute() -> None:
    check(run_each({"optimize": Optimize}, EXAMPLES // 8), ["optimize"], least=EXAMPLES // 20)


@pytest.mark.parametrize(
    ("minds_sharing", "minds_readers"), [(False, True), (True, False), (True, True)]
)
def test_the_random_networks_catch_a_naive_fold(minds_sharing: bool, minds_readers: bool) -> None:
    naive = partial(NaiveFold, minds_sharing=minds_sharing, minds_readers=minds_readers)
    if minds_sharing and minds_readers:
        assert run_each({"fold": naive}, 100)["fold"]
        return
    with pytest.raises(AssertionError):
        run_each({"fold": naive}, 500, shrink=False)
