"""How a model file came about: what edgekit noted in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgekit.runtime.preprocessing import PREFIX


def provenance(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The `edgekit.*` entries of a model's metadata, without that prefix.

    Lists and objects are parsed; any other value stays the text that it is.

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
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
