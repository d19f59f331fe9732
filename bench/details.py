"""What a report shows beside a model's totals: nodes, mistakes, origin, loss of precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench.confusion import Confusion
from edgekit.bench.count import NodeCount
from edgekit.bench.inspect_model import node_json
from edgekit.bench.signal_to_noise import Batch, SignalToNoise, signal_to_noise
from edgekit.export.graph import load_graph
from edgekit.runtime.data.source import Split, batches
from edgekit.runtime.errors import DataError, ModelFileError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.progress import Progress

_READ_AT_ONCE = 16


@dataclass(frozen=True)
class Details:
    """One model's details.

    Attributes:
        nodes: Every node with its counts.
        provenance: See `provenance.provenance`.
        confusion: None without data.
        signal_to_noise: None for the first model, and where it was not asked for.
        time_shares: Share of the run's time by node name, 0 to 1; empty without a profile.
    """

    nodes: tuple[NodeCount, ...]
    provenance: Mapping[str, Any]
    confusion: Confusion | None = None
    signal_to_noise: SignalToNoise | None = None
    time_shares: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The keys `nodes`, `provenance`, `confusion` and `signal_to_noise` of a model."""
        return {
            "nodes": [self._node_json(node) for node in self.nodes],
            "provenance": dict(self.provenance),
            "confusion": None if self.confusion is None else self.confusion.to_json(),
            "signal_to_noise": None
            if self.signal_to_noise is None
            else self.signal_to_noise.to_json(),
        }

    def _node_json(self, node: NodeCount) -> dict[str, Any]:
        return {
            **node_json(node),
            "weight_bits": node.weight_bits,
            "activation_bits": node.activation_bits,
            "time_share": self.time_shares.get(node.name),
        }


def noise_of_files(
    reference: Path,
    path: Path,
    preprocessing: tuple[Preprocessing, Preprocessing],
    split: Split,
    images: int,
    progress: Progress | None = None,
) -> SignalToNoise:
    """Compare a model file with a reference on images spread evenly over a split.

    Args:
        reference: The file to compare with.
        path: The model file.
        preprocessing: That of the reference and that of the model.
        split: Where the images come from.
        images: How many; all where the split has fewer.
        progress: Called with (images done, images in all).

    Raises:
        ModelFileError: the models share no tensor, or cannot be run; the message names the file.
        DataError: the images do not fit a model.
    """
    count = min(images, len(split))
    chosen = np.linspace(0, len(split) - 1, count).astype(np.int64)

    def samples() -> Iterator[Batch]:
        done = 0
        for pixels, _ in batches(split, _READ_AT_ONCE, chosen):
            yield preprocessing[0](pixels), preprocessing[1](pixels)
            done += len(pixels)
            if progress is not None:
                progress(done, count)

    try:
        found = signal_to_noise(load_graph(reference), load_graph(path), samples())
    except (ModelFileError, DataError) as error:
        raise type(error)(f"{path} beside {reference}: {error}") from error
    return SignalToNoise(str(reference), count, found)
