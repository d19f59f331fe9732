"""What a study measures: a row for each converted model, and the seeds of a variant together.

The rows in results.csv are what a study remembers: a training whose rows are there is done, whether
or not its run folder still is.
"""

from __future__ import annotations

import csv
import statistics
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgekit.bench.report.table import bytes_text, count_text
from edgekit.runtime.errors import OutputError
from edgekit.runtime.files import replace_atomically

COLUMNS = (
    "group",
    "variant",
    "precision",
    "seeds",
    "top-1 %",
    "non-zero",
    "MACs",
    "file",
    "IMT",
)


@dataclass(frozen=True)
class Measured:
    """One converted model of one training.

    Attributes:
        precision: "fp32" or one of export.precisions.PRECISIONS.
        correct: Images of the validation part that it classifies rightly.
        total: Images of the validation part.
        params: Elements of the tensors that hold learned values.
        nonzero: Those that are not zero.
        macs: Multiply-accumulates for one image.
        effective_macs: Those with non-zero weights.
        file_bytes: Size on disk.
        imt: See bench.scores.
        micronet2019: See bench.scores.
    """

    precision: str
    correct: int
    total: int
    params: int
    nonzero: int
    macs: int
    effective_macs: int
    file_bytes: int
    imt: float
    micronet2019: float


@dataclass(frozen=True)
class Row:
    """One line of results.csv: a variant, trained with one seed, in one precision."""

    recipe: str
    group: str
    variant: str
    seed: int
    epochs: int
    train_seconds: float
    images_per_second: float
    measured: Measured

    @property
    def top1(self) -> float:
        """Accuracy on the validation part, 0 to 1."""
        return self.measured.correct / self.measured.total

    def to_csv(self) -> dict[str, Any]:
        """The columns of results.csv."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "measured"}
        return {**own, "top1": round(self.top1, 5), **asdict(self.measured)}

    @staticmethod
    def from_csv(line: Mapping[str, str]) -> Row:
        """The row that a line of results.csv holds.

        Raises:
            KeyError: a column is missing.
            ValueError: a figure is none.
        """
        own = _typed(Row, line, leave_out="measured")
        return Row(**own, measured=Measured(**_typed(Measured, line)))


def _typed(cls: type[Any], line: Mapping[str, str], leave_out: str = "") -> dict[str, Any]:
    """The columns that are named as a dataclass's fields, in the types of these."""
    types = {name: kind for name, kind in typing.get_type_hints(cls).items() if name != leave_out}
    return {name: kind(line[name]) for name, kind in types.items()}


@dataclass(frozen=True)
class Summary:
    """The seeds of a variant in one precision together.

    Attributes:
        group: What it is compared with.
        variant: Its name.
        precision: Of its converted models.
        seeds: How many.
        top1: Mean accuracy on the validation part, 0 to 1.
        deviation: Sample standard deviation of the accuracy over the seeds; None for one seed.
        nonzero: Mean of the non-zero parameters.
        macs: Multiply-accumulates for one image.
        file_bytes: Mean size on disk.
        imt: Mean score.
    """

    group: str
    variant: str
    precision: str
    seeds: int
    top1: float
    deviation: float | None
    nonzero: float
    macs: int
    file_bytes: float
    imt: float

    def cells(self) -> tuple[str, ...]:
        """What stands in a table under COLUMNS."""
        spread = "" if self.deviation is None else f" ± {self.deviation * 100:.2f}"
        return (
            self.group,
            self.variant,
            self.precision,
            str(self.seeds),
            f"{self.top1 * 100:.2f}{spread}",
            count_text(round(self.nonzero)),
            count_text(self.macs),
            bytes_text(round(self.file_bytes)),
            f"{self.imt:.3g}",
        )


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write one line for each row; the file appears whole or not at all."""
    lines: list[Mapping[str, Any]] = [row.to_csv() for row in rows]
    with replace_atomically(path) as staged, staged.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def read_csv(path: Path) -> list[Row]:
    """The rows that an earlier run left; none where there is no such file.

    Raises:
        OutputError: the file is damaged.
    """
    try:
        with path.open(newline="") as file:
            return [Row.from_csv(line) for line in csv.DictReader(file)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"{path}: is damaged; restore it, or remove it and run the study's trainings again"
        ) from error


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """The rows of each variant and precision together, in the order of their first row."""
    together: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        together.setdefault((row.group, row.variant, row.measured.precision), []).append(row)
    by_group = sorted(together.items(), key=lambda item: _place(rows, item[0][0]))
    return [_summary(key, found) for key, found in by_group]


def _place(rows: Sequence[Row], group: str) -> int:
    return next(index for index, row in enumerate(rows) if row.group == group)


def _summary(key: tuple[str, str, str], rows: Sequence[Row]) -> Summary:
    accuracies = [row.top1 for row in rows]
    measured = [row.measured for row in rows]
    return Summary(
        *key,
        seeds=len(rows),
        top1=statistics.mean(accuracies),
        deviation=statistics.stdev(accuracies) if len(rows) > 1 else None,
        nonzero=statistics.mean(m.nonzero for m in measured),
        macs=measured[0].macs,
        file_bytes=statistics.mean(m.file_bytes for m in measured),
        imt=statistics.mean(m.imt for m in measured),
    )


def summary_markdown(name: str, summaries: Sequence[Summary]) -> str:
    """The summaries as a Markdown table."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- | --- | --- |" + " ---: |" * (len(COLUMNS) - 3)]
    lines += [f"| {' | '.join(summary.cells())} |" for summary in summaries]
    return f"# {name}\n\n" + "\n".join(lines) + "\n"
