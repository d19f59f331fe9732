"""How a model file came about: what edgekit noted in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from edgekit.runtime.preprocessing import PREFIX


def provenance(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The `edgekit.*` entries of a model's metadata, without that prefix.

    Lists and objects are parsed where all numbers in them are finite, so that they can be written
    again; any other value stays the text that it is.

    Args:
        metadata: A model's `metadata_props`; entries of other tools are left out.
    """
    return {
        key.removeprefix(PREFIX): _parsed(value)
        for key, value in sorted(metadata.items())
        if key.startswith(PREFIX)
    }


def _parsed(text: str) -> Any:
    if not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    """A number that a float holds; Python reads `1e999` as infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
