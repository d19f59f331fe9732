"""The passes that `optimize` runs, in the order that it runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import (
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from edgekit.export.passes.fold_batch_norm import FoldBatchNorm
from edgekit.export.passes.fold_batch_norm_into_next import FoldBatchNormIntoNext
from edgekit.export.passes.fold_batch_norm_through_concat import FoldBatchNormThroughConcat
from edgekit.export.passes.fold_batch_norm_through_pool import FoldBatchNormThroughPool
from edgekit.export.passes.fold_constants import FoldConstants
from edgekit.export.passes.fold_pad import FoldPad
from edgekit.export.passes.merge_common_subexpressions import MergeCommonSubexpressions
from edgekit.export.passes.merge_equal_constants import MergeEqualConstants
from edgekit.export.passes.pool_spatial_means import PoolSpatialMeans
from edgekit.export.passes.remove_identities import RemoveIdentities
from edgekit.export.passes.strip_zero_channels import StripZeroChannels
from edgekit.export.passes.turn_batch_norm_into_threshold import TurnBatchNormIntoThreshold


@dataclass(frozen=True)
class PassEntry:
    """A pass that users can name.

    Attributes:
        factory: Makes the pass.
        summary: What it does, in one line for `--list-passes`.
    """

    factory: Callable[[], ir.passes.PassBase]
    summary: str


def _remove_unused() -> ir.passes.PassBase:
    return ir.passes.Sequential(
        RemoveUnusedNodesPass(),
        RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call] # declares no return type
        RemoveUnusedOpsetsPass(),
    )


PASSES: dict[str, PassEntry] = {
    "fold-constants": PassEntry(
        FoldConstants, "compute what does not depend on the input (onnxscript)"
    ),
    "remove-identities": PassEntry(
        RemoveIdentities, "remove Identity, idle Dropout, Cast, Reshape, Transpose and the like"
    ),
    "pool-spatial-means": PassEntry(
        PoolSpatialMeans, "turn a ReduceMean over the map into a GlobalAveragePool"
    ),
    "fold-pad": PassEntry(FoldPad, "let a Conv or a pool pad what a Pad before it does"),
    "fold-batch-norm": PassEntry(
        FoldBatchNorm, "fold BatchNormalization into the Conv, ConvTranspose or Gemm before it"
    ),
    "fold-batch-norm-into-next": PassEntry(
        FoldBatchNormIntoNext, "fold BatchNormalization into the Conv or Gemm after it, where exact"
    ),
    "fold-batch-norm-through-concat": PassEntry(
        FoldBatchNormThroughConcat, "fold BatchNormalization behind a Concat into what is before it"
    ),
    "fold-batch-norm-through-pool": PassEntry(
        FoldBatchNormThroughPool, "fold BatchNormalization behind a pool into what is before it"
    ),
    "turn-batch-norm-into-threshold": PassEntry(
        TurnBatchNormIntoThreshold, "turn BatchNormalization and ReLU into Max and Min"
    ),
    "strip-zero-channels": PassEntry(
        StripZeroChannels, "remove channels that are constant or that nothing reads"
    ),
    "merge-common-subexpressions": PassEntry(
        MergeCommonSubexpressions, "compute once what is computed twice (onnx-ir)"
    ),
    "merge-equal-constants": PassEntry(MergeEqualConstants, "store once what is stored twice"),
    "remove-unused": PassEntry(
        _remove_unused, "remove nodes, constants, functions and opsets that nothing uses (onnx-ir)"
    ),
}
