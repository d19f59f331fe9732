"""Random networks: EDGEKIT_RANDOM_GRAPHS says how many (the slow run takes 2000)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis.errors import NoSuchExample
from random_networks import networks

from edgekit.export.graph import to_proto
from edgekit.export.liveness import channelwise, elementwise, joins, mixers
from edgekit.export.liveness.rule import Rule, Writer
from edgekit.export.liveness.state import Floats, Liveness
from edgekit.export.passes.strip_zero_channels import StripZeroChannels
from edgekit.export.verify import largest_difference, random_inputs, run_outputs

TOLERANCE = 2e-5
EXAMPLES = int(os.environ.get("EDGEKIT_RANDOM_GRAPHS", "60"))


def error_of(proto: onnx.ModelProto) -> float:
    """The error of a strip, which must leave a valid model that a second strip leaves alone."""
    model = ir.from_proto(proto)
    inputs = random_inputs(model)
    before = run_outputs(model, inputs)
    StripZeroChannels()(model)
    onnx.checker.check_model(to_proto(model), full_check=True)
    again = to_proto(model).SerializeToString(deterministic=True)
    assert not StripZeroChannels()(model).modified
    assert to_proto(model).SerializeToString(deterministic=True) == again
    return largest_difference(before, run_outputs(model, inputs))


def has_meaning(proto: onnx.ModelProto) -> bool:
    """Whether the outputs are of the size of what is added up in them: no products that explode."""
    model = ir.from_proto(proto)
    outputs = run_outputs(model, random_inputs(model)).values()
    return all(1e-3 < np.abs(output).max() < 1e3 for output in outputs if output.size)


THOROUGH = settings(
    max_examples=EXAMPLES, deadline=None, derandomize="EDGEKIT_RANDOM_GRAPHS" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


@THOROUGH
@given(proto=networks().filter(has_meaning))
def test_random_networks_compute_the_same(proto: onnx.ModelProto) -> None:
    assert error_of(proto) <= TOLERANCE


@THOROUGH
@given(proto=networks().filter(has_meaning))
def test_random_networks_compute_the_same_where_copies_cost_nothing(
    proto: onnx.ModelProto,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joins, "MACS_PER_COPY", 0)
        patch.setattr(joins, "MACS_PER_NODE", -1)
        assert error_of(proto) <= TOLERANCE


def fold_beside_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixers, "is_padded", lambda *_: False)
    monkeypatch.setattr(channelwise, "is_padded", lambda *_: False)


def forget_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixers.Mixer, "_sums", lambda self, *_: np.zeros((self.groups, self.outs)))


def see_one_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def need(self: Liveness, value: ir.Value | None, why: Any) -> None:
        channels = self.of(value)
        if channels is not None:
            channels.needs[:] = why

    monkeypatch.setattr(Liveness, "need", need)


def ignore_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Liveness, "join", lambda *_: None)


def add_one_addend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an addend that goes into a bias take the place of one that went there before."""
    add_to_bias = mixers.Mixer.add_to_bias

    def add(self: mixers.Mixer, writer: Writer, numbers: Floats) -> bool:
        bias = self.bias
        is_added = add_to_bias(self, writer, numbers)
        self.bias = bias
        return is_added

    monkeypatch.setattr(mixers.Mixer, "add_to_bias", add)


def keep_old_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the constants of a convolution stay as they were when an addend goes into its bias."""
    fold = elementwise.Elementwise.fold_into_bias

    def fold_into_bias(
        self: elementwise.Elementwise, live: Liveness, rules: dict[ir.Value, Rule], writer: Writer
    ) -> int:
        channels = dict(live.channels)
        count = fold(self, live, rules, writer)
        live.channels.update(channels)
        return count

    monkeypatch.setattr(elementwise.Elementwise, "fold_into_bias", fold_into_bias)


def is_wrong(proto: onnx.ModelProto) -> bool:
    try:
        return has_meaning(proto) and not error_of(proto) <= 100 * TOLERANCE
    except Exception:  # a graph that does not load, or cannot be rewritten, is wrong as well
        return True


@pytest.mark.parametrize(
    "naive",
    [
        fold_beside_padding,
        forget_constants,
        see_one_reader,
        ignore_joins,
        add_one_addend,
        keep_old_constants,
    ],
)
def test_a_naive_strip_fails_on_the_same_networks(
    monkeypatch: pytest.MonkeyPatch, naive: Callable[[pytest.MonkeyPatch], None]
) -> None:
    naive(monkeypatch)
    search = settings(
        max_examples=1500, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    try:
        find(networks(), is_wrong, settings=search)
    except NoSuchExample:
        pytest.fail("1500 random networks did not tell the naive strip from the right one")
