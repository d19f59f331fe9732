"""Options that several commands share, each written once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.runtime.errors import InputError


class Format(StrEnum):
    """How results are written to standard output."""

    TABLE = "table"
    JSON = "json"


class ReportFormat(StrEnum):
    """Forms of a report."""

    HTML = "html"
    MARKDOWN = "md"
    PNG = "png"


class Pack(StrEnum):
    """Where the nodes that unpack weights are written."""

    INLINE = "inline"
    FUNCTION = "function"


class Part(StrEnum):
    """Parts of a data set that a model can be measured on."""

    TRAIN = "train"
    TEST = "test"


class BatchNorm(StrEnum):
    """What `optimize` does with batch norm that folds into no convolution."""

    AUTO = "auto"
    THRESHOLD = "threshold"
    KEEP = "keep"


def parse_numbers(value: str | None) -> tuple[float, ...] | None:
    """Parse one number, or several with commas between them."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise typer.BadParameter(f"{value!r}: give numbers with commas between them") from None


def finite(value: float | None) -> float | None:
    """Pass a number on; JSON has none for infinity, and no limit compares with NaN.

    Raises:
        typer.BadParameter: it is not finite.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number; give one")
    return value


def parse_counts(flag: str, value: str) -> tuple[int, ...]:
    """Parse one whole number above zero, or several with commas between them."""
    parts = [part.strip() for part in value.split(",")]
    if not all(map(_is_count, parts)):
        raise InputError(f"{flag} {value}: give numbers from 1 up with commas between them")
    return tuple(int(part) for part in parts)


def _is_count(text: str) -> bool:
    """Whether it is a whole number above zero that an axis or a counter can hold."""
    return text.isascii() and text.isdigit() and len(text) < 19 and int(text) > 0


def parse_scenarios(value: str | None) -> tuple[str, ...]:
    """Parse the name of an MLPerf scenario; `both` are SingleStream and Offline."""
    if value is None:
        return ()
    known = {"singlestream": "SingleStream", "offline": "Offline"}
    if value.lower() == "both":
        return tuple(known.values())
    if value.lower() not in known:
        raise InputError(f"--loadgen {value}: give SingleStream, Offline or both")
    return (known[value.lower()],)


def parse_shapes(values: list[str] | None) -> dict[str, tuple[int, ...]]:
    """Parse `name:1,3,224,224`, once an input."""
    shapes = {}
    for value in values or []:
        name, _, dims = value.rpartition(":")
        parts = [dim.strip() for dim in dims.split(",")]
        if not name or not all(map(_is_count, parts)):
            raise typer.BadParameter(f"{value!r}: write it as name:1,3,224,224")
        if name in shapes:
            raise typer.BadParameter(
                f"{value!r}: {name} has a shape already; give one for each input"
            )
        shapes[name] = tuple(map(int, parts))
    return shapes


Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model.", show_default=False)]
OneModel = Annotated[
    Path | None, typer.Argument(metavar="MODEL.onnx", help="The model.", show_default=False)
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output if it exists.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Form of the results.")]
DATA_VARIABLE = "EDGEKIT_DATA"
MAX_BITS = 1024  # of a number, beyond any arithmetic
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Where named data sets live (cifar10 reads its official archives there).",
        envvar=DATA_VARIABLE,
        show_default=False,
    ),
]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch a named data set that is not there yet.")
]
DATA_HELP = "digits, cifar10, a folder with one sub-folder per class, or an .npz"
Data = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help=f"{DATA_HELP}.", show_default=False)
]
BatchNormOption = Annotated[
    BatchNorm | None,
    typer.Option(
        "--batch-norm",
        help="Batch norm that folds into no convolution: auto (default) turns it into thresholds "
        "where that costs no time in float32, threshold always (for int8), keep never.",
        show_default=False,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="M[,M,M]",
        help="Channel means in units of pixel / 255, for a model that does not carry them.",
        show_default=False,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="S[,S,S]",
        help="Channel deviations, likewise.",
        show_default=False,
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME:1,3,32,32",
        help="Shape of an input whose axes the file leaves open; may be repeated.",
        show_default=False,
    ),
]
PackOption = Annotated[
    Pack | None,
    typer.Option(
        "--pack",
        help="Store zeros as bits and low-bit weights as codes, which onnxruntime unpacks once, at "
        "load: inline (what --pack alone means) or function, a model-local one that reads better.",
        show_default=False,
    ),
]
Codebook = Annotated[
    int | None,
    typer.Option(
        metavar="BITS",
        help="Round each tensor's weights to a codebook of 2 to 6 bits first (implies --pack).",
        show_default=False,
    ),
]


def with_pack_form(arguments: list[str]) -> list[str]:
    """Read `--pack` without a value as `--pack=inline`."""
    following = [*arguments[1:], ""]
    return [
        f"--pack={Pack.INLINE}" if argument == "--pack" and after not in set(Pack) else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


Strict = Annotated[
    bool,
    typer.Option("--strict", help="Fail (exit status 1) if an operator's MACs are not counted."),
]
MaskBits = Annotated[
    int,
    typer.Option(
        min=0, max=MAX_BITS, help="MicroNet score: bits an element of a sparse tensor's mask."
    ),
]
AccumulatorBits = Annotated[
    int, typer.Option(min=1, max=MAX_BITS, help="MicroNet score: width of an addition in bits.")
]
Free16Bits = Annotated[
    bool,
    typer.Option(
        "--free-16-bits", help="MicroNet score: count 32 bits as 16 where nothing is below 16."
    ),
]


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that the user set, so that the others keep their defaults."""
    return {name: value for name, value in values.items() if value is not None}


def refuse_idle(values: Mapping[str, Any], *, needed: str, given: object) -> None:
    """Refuse options that have no effect without another one.

    Raises:
        typer.BadParameter: one is set and `given`, the value of the option `needed`, is not.
    """
    idle = [name for name, value in values.items() if value is not None]
    if idle and given is None:
        raise typer.BadParameter(f"--{idle[0]} has no effect without {needed}; give both or none")


def where_data_is(data_dir: Path | None, download: bool) -> dict[str, object]:
    """The options on named data sets, as `refuse_idle` takes them; the environment is no option."""
    variable = os.environ.get(DATA_VARIABLE)
    by_hand = data_dir if variable is None or data_dir != Path(variable) else None
    return {"data-dir": by_hand, "download": download or None}
