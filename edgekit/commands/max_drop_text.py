"""A search for layers to spare in words, for people."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.bench.speed_tables import TextTable
from edgekit.commands.max_drop import KeptLayers


def search_pairs(found: KeptLayers) -> Iterator[tuple[str, str]]:
    """Names and values: how the search went."""
    count = sum(layer.kept_as == found.fallback for layer in found.layers)
    ended = "time ran out" if found.timed_out else "no fewer do" if found.met else "no number does"
    yield (
        "layers kept",
        f"{count} of {len(found.layers)} in {found.fallback}, for at most {found.limit:g} points "
        f"({ended}; {found.seconds:.0f} s)",
    )
    tried = (f"{trial.kept}: {trial.points:.2f}" for trial in found.trials)
    yield "points lost by number kept", ", ".join(tried)


def search_options(found: KeptLayers) -> str:
    """What gives the same file again, on one line however long."""
    if not found.options:
        return "the same file without the search: the same options without --max-drop"
    return f"the same file without the search: {found.options}"


def search_table(found: KeptLayers) -> TextTable:
    """The layers by sensitivity, and what each is kept as."""
    return TextTable(
        "Signal-to-noise ratio of the logits with one layer alone quantized, worst first",
        ("layer", "rank", "operator", "dB", "kept as"),
        tuple(
            (
                one.layer,
                str(one.rank),
                one.op_type,
                "not measured" if one.sensitivity_db is None else f"{one.sensitivity_db:.1f}",
                one.kept_as,
            )
            for one in found.layers
        ),
    )
