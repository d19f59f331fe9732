"""Turn a BatchNormalization that no convolution takes, and its ReLU, into a threshold a channel.

Before a convolution, as in pre-activation networks, a normalization a x + c cannot move past its
activation as it is. But with t = -c / a

    relu(a x + c) = a (max(x, t) - t) for a > 0,   a (min(x, t) - t) for a < 0

so that one Max with t, and one Min where signs are mixed or a Clip ends at both sides, is left, and
a and -a t move into what follows (move_affine_forward.py). batch_norm_forms.py has the formula for
any Clip and for constant channels, and the cost of each form. A site, which is a normalization and
the activation behind it (batch_norm_site.py says which are refused), takes one of these:

1. nothing: without an activation, where all readers take scale and shift;
2. Max, Min or both; Relu where every t is 0: where all readers take scale and shift;
3. Add and the activation, or thresholds and Add, or Add alone: where all readers take the scale;
4. a depthwise 1x1 Conv with a and c as weight and bias, and the activation: always in float32,
   but for matrices;
5. itself, as it was.

The policy chooses. "auto" takes what costs least in onnxruntime in float32, as modelled, and of
equals the first in this order. "threshold" leaves no normalization: it takes the first that has no
more nodes than the site, so that one of mixed signs before a padded convolution, which would need
Max, Min and Add, becomes a Conv. "keep" leaves all as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgekit.export.passes.base import GraphPass, NotExactError, is_op
from edgekit.export.passes.batch_norm_forms import Thresholds, cost_ps, is_blocked, thresholds
from edgekit.export.passes.batch_norm_site import Site, Step, find_site, replace_site
from edgekit.export.passes.move_affine_forward import plan_move
from edgekit.export.passes.weight_edit import WeightEdit, WeightWriter

Policy = Literal["auto", "threshold", "keep"]


@dataclass(frozen=True)
class _Form:
    """What could stand in a site's place.

    Attributes:
        steps: Its operators in a row.
        keeps_activation: Whether the site's activation follows them.
        edits: The new weights of the readers.
    """

    steps: tuple[Step, ...]
    keeps_activation: bool = False
    edits: tuple[WeightEdit, ...] = ()

    def op_types(self, site: Site) -> tuple[str, ...]:
        made = tuple(step.op_type for step in self.steps)
        return (*made, *site.op_types[1:]) if self.keeps_activation else made


class TurnBatchNormIntoThreshold(GraphPass):
    """Turn each BatchNormalization that is left into a threshold; a change is one of them.

    Args:
        policy: When to, see above.
    """

    def __init__(self, policy: Policy = "auto") -> None:
        super().__init__()
        self.policy = policy
        self._blocked: dict[ir.Value, bool] = {}

    def rewrite(self, model: ir.Model) -> None:
        """Give each normalization its form."""
        self._writer = WeightWriter(model)
        self._blocked = {}
        super().rewrite(model)

    def rewrite_node(self, model: ir.Model, node: ir.Node) -> int:
        """Give this node its form, if it is a BatchNormalization."""
        if not is_op(node, "BatchNormalization"):
            return 0
        if self.policy == "keep":
            raise NotExactError("kept, as asked for")
        site = find_site(model, node)
        form, reason = self._choose(model, site)
        self.tell(node, f"{_words(site.op_types)} became {_words(form.op_types(site))}{reason}")
        self._writer.write(form.edits)
        replace_site(
            model, site, form.steps, keep_activation=form.keeps_activation, taken=self._writer.taken
        )
        return 1

    def _choose(self, model: ir.Model, site: Site) -> tuple[_Form, str]:
        """The form that the policy takes, and why not the first.

        Raises:
            NotExactError: the site stays as it is.
        """
        forms: list[_Form] = []
        reasons: list[str] = []
        blocked = is_blocked(site.source, self._blocked)
        own = cost_ps(site.op_types, blocked)
        for plan in _PLANS:
            try:
                forms.append(plan(model, site))
            except NotExactError as reason:
                reasons.append(str(reason))
            if self.policy == "auto" and forms and _none_is_cheaper(site, forms[0], blocked):
                break
        if not forms:
            raise NotExactError(reasons[0])
        why = f", as {reasons[0]}" if len(forms) < len(_PLANS) and reasons else ""
        if self.policy == "threshold":
            short = [form for form in forms if len(form.op_types(site)) <= len(site.op_types)]
            return (short or forms)[0], why
        costs = [cost_ps(form.op_types(site), blocked) for form in forms]
        if min(costs) > own:
            layout = "in" if blocked else "outside"
            raise NotExactError(
                f"{_words(forms[0].op_types(site))} would cost {costs[0]} ps an element {layout} "
                f"onnxruntime's blocked layout, {_words(site.op_types)} costs {own}{why}"
            )
        return forms[costs.index(min(costs))], why


def _none_is_cheaper(site: Site, first: _Form, blocked: bool) -> bool:
    """Whether the first form is as cheap as the others can be, or the site itself is cheaper."""
    others = [(op_type, *site.op_types[1:]) for op_type in ("Add", "Conv")]
    least = min(cost_ps(op_types, blocked) for op_types in others)
    return (
        cost_ps(first.op_types(site), blocked) <= least or cost_ps(site.op_types, blocked) < least
    )


def _words(op_types: tuple[str, ...]) -> str:
    names = ["depthwise Conv" if op_type == "Conv" else op_type for op_type in op_types]
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names) or "nothing"


def _plan_thresholds(model: ir.Model, site: Site) -> _Form:
    """Forms 1 and 2."""
    found = thresholds(site.factor, site.shift, site.limits, site.dtype)
    edits = plan_move(model, site.result, found.factor, found.shift)
    return _Form(_clip_steps(site, found), edits=tuple(edits))


def _plan_shift(model: ir.Model, site: Site) -> _Form:
    """Form 3."""
    found = thresholds(site.factor, site.shift, site.limits, site.dtype)
    constant = found.factor == 0
    if (constant & (found.shift != 0)).any():
        raise NotExactError("it has a constant channel, which no scale can make")
    edits = tuple(plan_move(model, site.result, found.factor, np.zeros_like(found.shift)))
    shift = np.divide(found.shift, found.factor, where=~constant, out=np.zeros(len(constant)))
    add = Step("Add", (site.rounded(shift),))
    if site.activation is None:
        return _Form((add,), edits=edits)
    if site.limits == (0.0, np.inf) and (found.factor >= 0).all():
        return _Form((add,), keeps_activation=True, edits=edits)
    return _Form((*_clip_steps(site, found), add), edits=edits)


def _plan_depthwise(_: ir.Model, site: Site) -> _Form:
    """Form 4."""
    if site.rank < 3:
        raise NotExactError("it normalizes a matrix, which no convolution does")
    if site.dtype is not ir.DataType.FLOAT:
        raise NotExactError("onnxruntime has no Conv in float64")
    conv = Step("Conv", (site.rounded(site.factor), site.rounded(site.shift)))
    return _Form((conv,), keeps_activation=True)


_PLANS: tuple[Callable[[ir.Model, Site], _Form], ...] = (
    _plan_thresholds,
    _plan_shift,
    _plan_depthwise,
)


def _clip_steps(site: Site, found: Thresholds) -> tuple[Step, ...]:
    """Max and Min where there are thresholds for them."""
    if np.isinf(found.high).all() and (found.low == 0).all():
        return (Step("Relu"),)
    finite = np.finfo(site.dtype.numpy())
    edges = (("Max", found.low, finite.min), ("Min", found.high, finite.max))
    return tuple(
        Step(op_type, (np.where(np.isinf(edge), float(widest), edge),))
        for op_type, edge, widest in edges
        if np.isfinite(edge).any()
    )
