from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.constant_changes import constant_changes, from_text, to_text, with_changes
from edgekit.export.graph import from_proto, to_proto

ARRAYS = {
    "w": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32),
    "c": np.arange(-6, 6, dtype=np.int8).reshape(3, 4),
    "k": np.array([1, -1], np.int64),
}


@pytest.fixture
def model(text_graph: Callable[..., ir.Model]) -> ir.Model:
    return text_graph(
        "g (float[3, 4] x) => (float[N, M] y, int8[3, 4] z)"
        "{ a = Add(x, w) y = Reshape(a, k) z = Identity(c) }",
        **ARRAYS,
    )


def constants(model: ir.Model) -> dict[str, np.ndarray]:
    found = {str(value.name): value.const_value for value in model.graph.initializers.values()}
    return {name: tensor.numpy() for name, tensor in found.items() if tensor is not None}


def changed(model: ir.Model) -> ir.Model:
    result = from_proto(to_proto(model))
    for name, array in {"w": -ARRAYS["w"], "c": ARRAYS["c"] + np.int8(1)}.items():
        result.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return result


def test_changes_come_back_bit_for_bit(model: ir.Model) -> None:
    other = changed(model)
    changes = constant_changes(model, other)
    assert set(changes) == {"w", "c"}
    again = constants(with_changes(model, changes))
    for name, array in constants(other).items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)
    np.testing.assert_array_equal(constants(model)["w"], ARRAYS["w"])


def test_the_same_model_has_no_changes(model: ir.Model) -> None:
    assert constant_changes(model, from_proto(to_proto(model))) == {}


def test_changes_of_another_model_are_refused(model: ir.Model) -> None:
    changes = constant_changes(model, changed(model))
    with pytest.raises(ValueError, match="12 bytes"):
        with_changes(model, {"c": changes["w"]})
    with pytest.raises(ValueError, match="shape"):
        with_changes(model, {"w": changes["c"]})
    with pytest.raises(KeyError):
        with_changes(model, {"v": changes["w"]})


@pytest.mark.parametrize("text", ["", "AAAA", "no base64", to_text(b"x" * 99)[:-4]])
def test_text_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 # base64's and zlib's own words
        from_text(text, 99)


def test_more_than_was_expected_is_refused() -> None:
    text = to_text(bytes(1 << 20))
    assert from_text(text, 1 << 20) == bytes(1 << 20)
    with pytest.raises(ValueError, match="compressed"):
        from_text(text, (1 << 20) - 1)
