"""What a report shows beside a model's totals: nodes, mistakes, origin, loss of precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.bench.confusion import Confusion
from edgekit.bench.count import NodeCount
from edgekit.bench.inspect_model import node_json
from edgekit.bench.signal_to_noise import SignalToNoise


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
