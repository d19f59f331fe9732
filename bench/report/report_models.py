"""The models of several results files as one list, each under a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from edgekit.bench.report.front import Candidate
from edgekit.bench.report.results_file import Entry, Run
from edgekit.bench.report.table import model_names


@dataclass(frozen=True)
class ReportModel:
    """One model of a report.

    Attributes:
        name: What the report calls it; no other model has the same.
        place: Its place in the list, which gives it color and marker.
        entry: Its figures.
        first: The reference of its run.
        run_name: The run's results file.
    """

    name: str
    place: int
    entry: Entry
    first: Entry
    run_name: str

    @property
    def candidate(self) -> Candidate:
        """The model as plots take it."""
        return Candidate(self.name, self.entry)


def report_models(runs: Sequence[Run]) -> list[ReportModel]:
    """All models, in order."""
    run_names = model_names([run.source for run in runs])
    found: list[ReportModel] = []
    taken: set[str] = set()
    for run, run_name in zip(runs, run_names, strict=True):
        names = model_names([entry.path for entry in run.entries])
        for name, entry in zip(names, run.entries, strict=True):
            short = name.removesuffix(".onnx")
            if short in taken:
                short = f"{short} ({PurePath(run_name).stem})" if len(runs) > 1 else short
            number, unique = 2, short
            while unique in taken:
                unique, number = f"{short} ({number})", number + 1
            taken.add(unique)
            found.append(ReportModel(unique, len(found), entry, run.entries[0], run_name))
    return found
