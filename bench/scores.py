"""One number for size and work together: the two scores that edgekit prints; lower is better.

**IMT** (the course where the project's reference result was made):

    nonzero * (q_w / 32) / 5.6e6  +  macs * (max(q_w, q_a) / 32) / 2.8e8

with dense MACs; unstructured zeros lower the first term alone. q_w is the stored width of a weight,
in the second term the widths at which the operands are multiplied. Each tensor and each node counts
with its own.

**MicroNet 2019** (NeurIPS 2019 MicroNet Challenge, https://micronet-challenge.github.io/
scoring_and_submission, and the counter its organizers published in google-research/
micronet_challenge/counting.py), normalized for CIFAR-100 by WideResNet-28-10: 36.5e6 parameters and
10.49e9 operations:

    storage bits / 32 / 36.5e6  +  operations / 10.49e9

- Storage: each learned tensor is stored dense, or as its non-zeros and a mask of one bit an
  element, if it has any zeros; a weight that the graph rebuilds counts what the file stores for it;
  whatever else inference needs (scales, zero points) counts too.
- A dot product of n non-zero weights is n multiplications and n - 1 additions (none if n is 0), a
  bias one more addition. A multiplication counts as (wider operand) / 32, an addition as
  accumulator / 32.
- The other operators that compute are in `other_operations`, which states its conventions. Changes
  of type, copies and comparisons outside of activation and pooling are free, and so is what depends
  on no input, such as the unpacking of a weight: it runs once, at load.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.bench.count import Counts, NodeCount
from edgekit.bench.mac_rules import MAC_RULES
from edgekit.bench.other_operations import OTHER_OPERATIONS

IMT_PARAMS = 5.6e6
IMT_MACS = 2.8e8
MICRONET_PARAMS = 36.5e6
MICRONET_OPERATIONS = 10.49e9


@dataclass(frozen=True)
class ScoreConventions:
    """What the MicroNet rules leave to the entry.

    Attributes:
        mask_bits: Bits an element of the mask of a tensor with zeros.
        accumulator_bits: Width of an addition.
        free_16_bits: Count 32-bit values and operands as 16-bit, which the rules allow to entries
            that quantize nothing below 16 bits; an entry that does gets no such allowance.
    """

    mask_bits: int = 1
    accumulator_bits: int = 32
    free_16_bits: bool = False


@dataclass(frozen=True)
class Scores:
    """Both scores of a model."""

    imt: float
    micronet2019: float


def score(counts: Counts, conventions: ScoreConventions | None = None) -> Scores:
    """Both scores of a counted model."""
    return Scores(imt(counts), micronet2019(counts, conventions or ScoreConventions()))


def imt(counts: Counts) -> float:
    """The IMT score; the formula is in the module's docstring."""
    storage = sum(tensor.nonzero * tensor.bits / 32 for tensor in counts.learned)
    work = sum(
        node.macs * max(node.weight_bits, node.activation_bits) / 32 for node in counts.nodes
    )
    return storage / IMT_PARAMS + work / IMT_MACS


def micronet2019(counts: Counts, conventions: ScoreConventions) -> float:
    """The MicroNet 2019 score for CIFAR-100; the rules are in the module's docstring."""
    free = conventions.free_16_bits and _narrowest(counts) >= 16
    storage = storage_bits(counts, conventions.mask_bits, free)
    operations = sum(
        node_operations(node, conventions.accumulator_bits, free) for node in counts.nodes
    )
    return storage / 32 / MICRONET_PARAMS + operations / MICRONET_OPERATIONS


def storage_bits(counts: Counts, mask_bits: int = 1, free_16_bits: bool = False) -> int:
    """Bits that the MicroNet rules count: learned tensors dense or masked, and all else needed."""
    total = 0
    learned = {id(tensor) for tensor in counts.learned}
    for tensor in counts.parameters:
        if id(tensor) not in learned or tensor.packed:
            total += tensor.stored_bits
            continue
        bits = min(tensor.bits, 16) if free_16_bits else tensor.bits
        total += tensor.nonzero * bits
        if tensor.nonzero < tensor.elements:
            total += tensor.elements * mask_bits
    return total


def node_operations(node: NodeCount, accumulator_bits: int, free_16_bits: bool = False) -> float:
    """A node's operations in units of one 32-bit operation, times its runs."""
    width = max(node.weight_bits, node.activation_bits)
    if node.op_type in MAC_RULES:
        starts = 0 if node.has_bias else node.sums * node.runs
        multiplications, additions = node.effective_macs, max(node.effective_macs - starts, 0)
    elif node.op_type in OTHER_OPERATIONS:
        each = OTHER_OPERATIONS[node.op_type](node)
        multiplications, additions = each[0] * node.runs, each[1] * node.runs
    else:
        return 0.0
    width = min(width, 16) if free_16_bits else width
    return multiplications * width / 32 + additions * accumulator_bits / 32


def _narrowest(counts: Counts) -> int:
    widths = [tensor.bits for tensor in counts.learned]
    widths += [min(node.weight_bits, node.activation_bits) for node in counts.nodes if node.macs]
    return min(widths, default=32)
