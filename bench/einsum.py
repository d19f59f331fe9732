"""What an Einsum multiplies.

Two operands are multiplied once for every combination of their indices: the product of the sizes of
all labels. Three or more are multiplied in pairs from left to right, as onnxruntime does it; what a
pair leaves has the labels that a later operand or the result still needs. One operand is only
summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from edgekit.bench.shapes import Shape

Labels = tuple[str, ...]


def einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """Multiply-accumulates of an Einsum.

    Args:
        equation: As the operator has it, `ij,jk->ik` or `...ij,jk`.
        shapes: One shape an operand.
    """
    terms, result = _terms(equation, shapes)
    sizes: dict[str, int] = {}
    for labels, shape in zip(terms, shapes, strict=True):
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)  # an axis of 1 is broadcast
    macs, held = 0, set(terms[0])
    for position, labels in enumerate(terms[1:], 2):
        held |= set(labels)
        macs += prod(sizes[label] for label in held)
        held &= set(result).union(*terms[position:])
    return macs


def repeats_labels(equation: str, operand: int) -> bool:
    """Whether an operand has a label twice: only its diagonal is used."""
    letters = _letters(equation.partition("->")[0].split(",")[operand])
    return len(set(letters)) < len(letters)


def _terms(equation: str, shapes: Sequence[Shape]) -> tuple[list[Labels], Labels]:
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    terms = [
        _expand(part, len(shape) - len(_letters(part)))
        for part, shape in zip(parts, shapes, strict=True)
    ]
    spread = max((len(t) - len(_letters(p)) for t, p in zip(terms, parts, strict=True)), default=0)
    if arrow:
        return terms, _expand(right, spread)
    letters = _letters(left.replace(",", ""))
    return terms, (
        *_expand("...", spread),
        *(letter for letter in sorted(set(letters)) if letters.count(letter) == 1),
    )


def _letters(term: str) -> str:
    return term.replace("...", "").replace(" ", "")


def _expand(term: str, spread: int) -> Labels:
    """One label an axis; those under the dots are numbered from the right."""
    before, dots, after = term.partition("...")
    under = [f".{axis}" for axis in range(spread, 0, -1)] if dots else []
    return (*before, *under, *after)
