"""A comparison of two models in words, for people; `CompareResult.to_json` has it for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from edgekit.bench.speed_tables import TextTable
from edgekit.bench.tensor_pairs import Unmatched
from edgekit.commands.compare import CompareResult

_NAMED = 3


def comparison_pairs(result: CompareResult) -> Iterator[tuple[str, str]]:
    """Names and values: the files, the images, how much differs."""
    for name, side in zip(("first", "second"), result.sides, strict=True):
        yield name, f"{side.path}, top-1 {side.top1:.2%}"
    yield "compared on", f"{result.samples} images of {result.data} ({result.split})"
    yield from result.normalization.pairs
    noise = result.noise.found
    same = sum(one.db is None for one in noise.layers)
    yield "tensors", f"{len(noise.layers)} of both, {same} of them equal"
    for name, alone in (
        ("in the first alone", noise.reference_only),
        ("in the second alone", noise.model_only),
    ):
        if alone:
            yield name, _counted(alone)
    yield "changed class", f"{len(result.flips)} images, {_right_and_wrong(result)}"


def comparison_tables(result: CompareResult, top: int) -> Iterator[TextTable]:
    """The `top` worst tensors and the first `top` images that changed class."""
    layers = result.noise.found.worst_first
    yield TextTable(
        f"Signal-to-noise ratio, {_first_of(top, len(layers), 'tensors, worst first')}",
        ("tensor", "operator", "matched by", "dB"),
        tuple(
            (
                one.tensor,
                one.op_type,
                one.matched,
                "equal" if one.db is None else f"{one.db:.1f}",
            )
            for one in layers[:top]
        ),
    )
    if result.flips:
        yield TextTable(
            f"Changed class, {_first_of(top, len(result.flips), 'images')}",
            ("image", "true class", "first model", "second model"),
            tuple(
                (str(flip.index), flip.label, flip.before, flip.after)
                for flip in result.flips[:top]
            ),
        )


def _first_of(top: int, total: int, what: str) -> str:
    return f"{top} of {total} {what}" if top < total else f"{total} {what}"


def _right_and_wrong(result: CompareResult) -> str:
    lost = sum(flip.before == flip.label for flip in result.flips)
    won = sum(flip.after == flip.label for flip in result.flips)
    return f"{lost} from right to wrong, {won} from wrong to right"


def _counted(alone: tuple[Unmatched, ...]) -> str:
    """How many there are for each reason, and the first names."""
    kinds = Counter("within another" if "within" in one.reason else one.reason for one in alone)
    reasons = ", ".join(f"{number} {reason}" for reason, number in kinds.items())
    names = ", ".join(one.tensor for one in alone[:_NAMED])
    more = f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""
    return f"{len(alone)} ({names}{more}): {reasons}"
