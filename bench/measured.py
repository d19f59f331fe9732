"""What a bench run measured inside a model, read back from its results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.bench.figures import file_sha256
from edgekit.bench.results import SCHEMA_VERSION
from edgekit.runtime.errors import InputError


@dataclass(frozen=True)
class Measured:
    """Measured figures of one model, node by node.

    Attributes:
        time_shares: Share of a run's time by node name, 0 to 1.
        decibels: Signal-to-noise ratio against the run's first model, by the name of a node or of
            the tensor that it makes.
        source: The results file, for the reader.
    """

    time_shares: Mapping[str, float] = field(default_factory=dict)
    decibels: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


def read_measured(results: Path, model: Path) -> Measured:
    """What a file of `edgekit bench --format json` says about one model file.

    Args:
        results: The results.
        model: The model; it is found by its SHA-256, so that the figures are of this very file.

    Raises:
        InputError: the results are missing, damaged, of another schema version, or do not hold
            this model.
    """
    try:
        report = json.loads(results.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{results}: cannot be read: {error.strerror}; check --results") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{results}: not a file of results; write it with edgekit bench --format json"
        ) from error
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{results}: schema version {version}, where this edgekit reads {SCHEMA_VERSION}; "
            "run edgekit bench --format json again"
        )
    sha256 = file_sha256(model)
    for entry in _objects(report.get("models")):
        if entry.get("sha256") == sha256:
            return _measured(entry, str(results))
    raise InputError(f"{results}: holds no figures of {model} as it is now; bench it again")


def _measured(entry: Mapping[str, Any], source: str) -> Measured:
    shares = {
        str(node.get("name")): float(node["time_share"])
        for node in _objects(entry.get("nodes"))
        if isinstance(node.get("time_share"), int | float)
    }
    decibels = {}
    noise = entry.get("signal_to_noise")
    for layer in _objects(noise.get("layers") if isinstance(noise, dict) else None):
        if isinstance(layer.get("db"), int | float):
            for key in ("tensor", "node"):
                decibels[str(layer.get(key))] = float(layer["db"])
    return Measured(shares, decibels, source)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list; nothing where the file holds something else."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))
