"""How a model came about and how it was measured, as pairs of words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.bench.report.json_object import printable
from edgekit.bench.report.results_file import Entry, Run
from edgekit.bench.report.table import bytes_text

Pairs = list[tuple[str, list[str]]]

# Lists of no more than so many short words stand on one line.
_LONGEST_LINE = 160
# Objects in objects beyond this are shown as they are written.
_DEEPEST = 3


def origin_pairs(entry: Entry) -> Pairs:
    """Identity of the file and what edgekit noted in it: every pass and every setting."""
    pairs: Pairs = [
        ("file", [entry.path]),
        ("sha256", [entry.sha256]),
        ("size", [f"{bytes_text(entry.file_bytes)} ({entry.file_bytes:,} bytes)"]),
        ("opset", [str(entry.opset)]),
        ("precision", [entry.precision]),
    ]
    noted = {key: value for key, value in entry.provenance.items() if key != "precision"}
    if not noted:
        pairs.append(("noted", ["nothing"]))
    return pairs + setting_pairs(noted)


def run_pairs(run: Run) -> Pairs:
    """Where and how a run was measured."""
    pairs: Pairs = [
        ("edgekit", [run.version]),
        ("processor", [run.cpu]),
        ("onnxruntime", [run.onnxruntime]),
    ]
    return pairs + setting_pairs(
        {key: value for key, value in run.settings.items() if value is not None}
    )


def setting_pairs(values: Mapping[str, Any], prefix: str = "") -> Pairs:
    """Settings by name; those inside others as `outer, inner`."""
    found: Pairs = []
    for key, value in values.items():
        name = printable(f"{prefix}{key}".replace("_", " "))
        if isinstance(value, dict) and value and prefix.count(",") < _DEEPEST:
            found += setting_pairs(value, f"{prefix}{key}, ")
        elif isinstance(value, list) and value:
            words = [_word(one) for one in value]
            line = ", ".join(words)
            found.append((name, words if key == "passes" or len(line) > _LONGEST_LINE else [line]))
        elif value not in ({}, []):
            found.append((name, [_word(value)]))
    return found


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))
