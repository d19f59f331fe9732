"""Random networks through any two passes, in both orders.

EDGEKIT_RANDOM_GRAPHS says how many networks the slow run takes.
"""

from __future__ import annotations

import os
from collections import Counter

import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pass_trials import ALL, LARGEST_ERROR, Factory, Trial
from random_networks import networks

EXAMPLES = int(os.environ.get("EDGEKIT_RANDOM_GRAPHS", "2000"))


def run_pairs(passes: dict[str, Factory], examples: int) -> Counter[tuple[str, str]]:
    """Run a pass on each network, and all of them on its result.

    Returns:
        How many networks both passes of a pair changed; beside "" how many the first one changed.

    Raises:
        AssertionError: a pair broke a network.
    """
    changed: Counter[tuple[str, str]] = Counter()

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )  # fmt: skip
    @given(networks(), st.sampled_from(sorted(passes)))
    def run(proto: onnx.ModelProto, first: str) -> None:
        trial = Trial.of(proto)
        between = trial.after(trial.data, first, passes[first]) if trial else b""
        if trial is None or between is trial.data:
            return
        changed[first, ""] += 1
        for second, factory in passes.items():
            after = trial.after(between, second, factory)
            if after is not between:
                changed[first, second] += 1
            assert trial.error(after, f"{first}, then {second}") <= LARGEST_ERROR, (first, second)

    run()
    return changed


def test_passes_in_any_order_keep_what_random_networks_compute() -> None:
    run_pairs(ALL, 50)


@pytest.mark.slow
def test_passes_in_any_order_keep_what_many_random_networks_compute() -> None:
    changed = run_pairs(ALL, EXAMPLES)
    assert {first for first, _ in changed} == set(ALL)
    assert len(changed) >= len(ALL) ** 2 // 4


class NegateNewBiases(ir.passes.InPlacePass):
    """A pass that is wrong about what fold-batch-norm adds, and does nothing before it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        new = [v for name, v in model.graph.initializers.items() if name.endswith("_bias")]
        for value in new:
            assert value.const_value is not None
            value.const_value = ir.tensor(-value.const_value.numpy(), name=value.name)
        return ir.passes.PassResult(model, modified=bool(new))


def test_a_pass_that_is_wrong_after_another_one_is_caught() -> None:
    passes: dict[str, Factory] = {"fold": ALL["fold-batch-norm"], "negate": NegateNewBiases}
    with pytest.raises(AssertionError, match=r"fold.*negate"):
        run_pairs(passes, 300)
