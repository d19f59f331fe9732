"""Fold a BatchNormalization behind a pool into what is before the pool.

A pool stays within a channel, and a normalization is a x + b there. So where the normalization is
all that reads the pool, the two may change places:

    AveragePool, GlobalAveragePool   a mean(x) + b = mean(a x + b)
    MaxPool, GlobalMaxPool           a max(x) + b = max(a x + b)   for a not below zero

and the normalization folds into what makes x: a convolution or Gemm (fold_batch_norm.py), another
pool, or a Concat (fold_batch_norm_through_concat.py). Refused are:

1. a pool, or what makes x, that others read too or that is a graph output;
2. a maximum with a negative scale in any channel; a MaxPool that is dilated or whose indices are
   read;
3. an AveragePool that counts its padding, for a shift that is not zero;
4. what fold_batch_norm.py refuses of a convolution or Gemm, and of the normalization.
"""

from __future__ import annotations

from edgekit.export.passes.fold_batch_norm_through_concat import (
    POOLS,
    FoldBatchNormThroughConcat,
)


class FoldBatchNormThroughPool(FoldBatchNormThroughConcat):
    """Fold each BatchNormalization behind a pool into what is before the pool, where exact."""

    operators = POOLS
