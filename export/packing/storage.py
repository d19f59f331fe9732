"""How one tensor can be stored, and what each way costs.

| storage | the file holds | pays for |
|---|---|---|
| `values` | the values, in a blob that many tensors share | small vectors |
| `mask` | a bit an element, and the values that are not zero | sparse tensors |
| `codesN` | an N-bit index an element, and the tensor's distinct values | few distinct values |
| `mask+codesN` | a bit an element, and an N-bit index for each non-zero | both |

All of them give the values back bit for bit; only the sign of a zero is lost, and only in weights
that are multiplied and summed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# Widths of codes: up to three streams of 4, 2 and 1 bits each.
CODE_BITS = (1, 2, 3, 4, 5, 6, 7, 8)

# Bytes of protobuf around the values: a piece of a Split with its size, a Reshape with a name, a
# Gather in a codebook, an initializer of its own; measured on files with names of two letters.
_PIECE, _RESHAPE, _LOOKUP, _OWN = 8, 20, 32, 16


@dataclass(frozen=True)
class Storage:
    """One way to store tensors.

    Attributes:
        masked: Zeros are bits of a mask.
        code_bits: Width of an index into the codebook; 0 where the values themselves are stored.
    """

    masked: bool
    code_bits: int

    def __str__(self) -> str:
        codes = f"codes{self.code_bits}" if self.code_bits else ""
        return "+".join(part for part in ("mask" if self.masked else "", codes) if part) or "values"

    @property
    def decoder_bytes(self) -> int:
        """Protobuf of the nodes that decode a blob, whatever its size."""
        return 50 + 200 * self.masked + 120 * self.code_bits.bit_count() + 40 * bool(self.code_bits)


STORAGES = tuple(Storage(masked, bits) for masked in (False, True) for bits in (0, *CODE_BITS))


class Packable:
    """A stored tensor that may be packed."""

    def __init__(self, value: ir.Value, *, signed_zeros: bool) -> None:
        """Read the tensor.

        Args:
            value: The initializer.
            signed_zeros: Whether minus zero must stay what it is.
        """
        assert value.const_value is not None
        self.value = value
        self.name = str(value.name)
        array = value.const_value.numpy()
        self.shape: tuple[int, ...] = array.shape
        self.array: NDArray[Any] = np.ascontiguousarray(array).reshape(-1)
        if not signed_zeros and array.dtype.kind == "f":
            self.array = np.where(self.array == 0, array.dtype.type(0), self.array)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        return self.array.dtype

    @property
    def nonzero(self) -> NDArray[np.bool_]:
        """Where a value is not all zero bits."""
        return self._patterns.astype(np.bool_)

    @cached_property
    def distinct(self) -> int:
        """Different bit patterns."""
        return len(np.unique(self._patterns))

    @property
    def _patterns(self) -> NDArray[np.unsignedinteger[Any]]:
        return self.array.view(f"u{self.dtype.itemsize}")

    def codes(self, storage: Storage) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Indices of the values that `storage` keeps, and the codebook that they point into."""
        kept = self._patterns[self.nonzero] if storage.masked else self._patterns
        book, codes = np.unique(kept, return_inverse=True)
        return codes.astype(np.uint8), book.view(self.dtype)

    def own_bytes(self) -> float:
        """Bytes of an initializer of its own, shape and name left out."""
        return self.array.nbytes + _OWN + 2 * len(self.shape)

    def bytes_in(self, storage: Storage) -> float | None:
        """Bytes in the file if stored so, shape and name left out; None if it cannot be."""
        around = _PIECE + (_RESHAPE + 2 * len(self.shape) if len(self.shape) != 1 else 0)
        mask = self.array.size / 8 if storage.masked else 0.0
        if storage.masked and self._zeros == 0:
            return None
        kept = self.array.size - (self._zeros if storage.masked else 0)
        if not storage.code_bits:
            return mask + kept * self.dtype.itemsize + around
        book = self.distinct - (storage.masked and self._zeros > 0)
        if book > 1 << storage.code_bits:
            return None
        entries = (book + storage.masked) * self.dtype.itemsize
        return mask + kept * storage.code_bits / 8 + entries + around + _LOOKUP

    @cached_property
    def _zeros(self) -> int:
        return self.array.size - int(np.count_nonzero(self._patterns))


def choose(tensors: list[Packable], banned: set[Storage]) -> dict[Packable, Storage]:
    """The storage of each tensor that makes their file small; none where nothing pays.

    At first each tensor has the storage that is smallest for it alone; then storages are given up,
    one by one, while the decoder that one needs costs more than it saves.

    Args:
        tensors: All of one element type.
        banned: Storages that may not be used.
    """
    costs = {tensor: _costs(tensor, banned) for tensor in tensors}
    used = {min(cost, key=lambda s: cost[s]) for cost in costs.values()} - {None}
    while used:
        without = {storage: _total(costs, used - {storage}) for storage in used}
        best = min(without, key=lambda s: (without[s], str(s)))
        if without[best] > _total(costs, used):
            break
        used.remove(best)
    chosen = {tensor: _smallest(cost, used) for tensor, cost in costs.items()}
    return {tensor: storage for tensor, storage in chosen.items() if storage is not None}


_Costs = dict[Storage | None, float]


def _costs(tensor: Packable, banned: set[Storage]) -> _Costs:
    costs: _Costs = {None: tensor.own_bytes()}
    for storage in STORAGES:
        cost = None if storage in banned else tensor.bytes_in(storage)
        if cost is not None:
            costs[storage] = cost
    return costs


def _smallest(cost: _Costs, used: Collection[Storage | None]) -> Storage | None:
    return min((s for s in cost if s is None or s in used), key=lambda s: cost[s])


def _total(costs: dict[Packable, _Costs], used: Collection[Storage | None]) -> float:
    decoders = sum(storage.decoder_bytes for storage in used if storage is not None)
    return decoders + sum(cost[_smallest(cost, used)] for cost in costs.values())
