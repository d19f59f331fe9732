from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from edgekit.runtime.errors import RecipeError
from edgekit.train.settings import from_mapping


@dataclass(frozen=True)
class Inner:
    rate: float
    kind: Literal["sgd", "adam"] = "sgd"


@dataclass(frozen=True)
class Outer:
    name: str
    epochs: int = 1
    growth: int | tuple[int, ...] = 12
    window: tuple[float, float] = (0.0, 1.0)
    fast: bool = False
    inner: Inner | None = None
    steps: tuple[Inner, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise RecipeError(f"epochs {self.epochs} must be at least 1")


def test_every_understood_type_is_converted() -> None:
    outer = from_mapping(
        Outer,
        {
            "name": "a",
            "epochs": 3,
            "growth": [1, 2],
            "window": [0, 0.5],
            "fast": True,
            "inner": {"rate": 1, "kind": "adam"},
            "steps": [{"rate": 0.5}],
            "options": {"anything": [1]},
        },
        where="",
    )
    assert outer == Outer(
        name="a",
        epochs=3,
        growth=(1, 2),
        window=(0.0, 0.5),
        fast=True,
        inner=Inner(1.0, "adam"),
        steps=(Inner(0.5),),
        options={"anything": [1]},
    )
    assert isinstance(outer.inner, Inner)
    assert isinstance(outer.inner.rate, float)


def test_defaults_fill_what_is_not_given() -> None:
    assert from_mapping(Outer, {"name": "a", "growth": 4}, where="model") == Outer("a", growth=4)


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ({"name": "a", "grwoth": 1}, ["model.grwoth: unknown", "did you mean growth?", "epochs"]),
        ({}, ["model.name: this key is missing", "a string"]),
        ({"name": 1}, ["model.name: expected a string, got 1"]),
        ({"name": "a", "epochs": True}, ["model.epochs: expected an integer, got True"]),
        ({"name": "a", "epochs": 1.0}, ["model.epochs: expected an integer, got 1.0"]),
        ({"name": "a", "fast": 1}, ["model.fast: expected true or false, got 1"]),
        (
            {"name": "a", "growth": "x"},
            ["model.growth: expected an integer or a list, each an int"],
        ),
        ({"name": "a", "growth": [1, "x"]}, ["model.growth[1]: expected an integer, got 'x'"]),
        ({"name": "a", "window": [1]}, ["model.window: expected a list of 2", "got [1]"]),
        ({"name": "a", "inner": {"rat": 1}}, ["model.inner.rat: unknown", "did you mean rate?"]),
        ({"name": "a", "inner": 3}, ["model.inner: expected a table, got 3"]),
        ({"name": "a", "inner": {"rate": math.nan}}, ["model.inner.rate: expected a finite"]),
        ({"name": "a", "inner": {"rate": 10**400}}, ["model.inner.rate: expected a finite"]),
        (
            {"name": "a", "inner": {"rate": 1, "kind": "rms"}},
            ["model.inner.kind: expected one of 'sgd', 'adam', got 'rms'"],
        ),
        ({"name": "a", "steps": [{}]}, ["model.steps[0].rate: this key is missing"]),
        ({"name": "a", "options": 1}, ["model.options: expected a table"]),
        ({"name": "a", "epochs": 0}, ["model: epochs 0 must be at least 1"]),
        ([1], ["model: expected a table, got [1]"]),
    ],
)
def test_errors_name_the_key_and_what_it_takes(mapping: Any, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        from_mapping(Outer, mapping, where="model")
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_at_the_top_of_a_file_keys_have_no_prefix() -> None:
    with pytest.raises(RecipeError, match=r"^nmae: unknown; did you mean name\?"):
        from_mapping(Outer, {"nmae": "a"}, where="")
