"""The command that writes a model of a smaller precision: it parses, calls one function, prints."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgekit import options
from edgekit.options import Format
from edgekit.runtime.errors import naming


class Kernels(StrEnum):
    """Whose kernels `quantize` writes for, and whether it stores zeros for the sake of speed."""

    FAST = "fast"
    KEEP = "keep"
    OPENVINO = "openvino"


class Switch(StrEnum):
    """Whether `quantize` does what may make a model more accurate."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Rounding(StrEnum):
    """How `quantize` rounds weights."""

    NEAREST = "nearest"
    ADAPTIVE = "adaptive"


class QuantizedBatchNorm(StrEnum):
    """What `quantize` does with batch norm."""

    THRESHOLD = "threshold"
    KEEP = "keep"


def quantize(
    model: options.Model,
    output: options.Output,
    calib: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help=f"Calibration images, from its training part: {options.DATA_HELP}.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="int8, int16, fp16, fp16-storage or dynamic-int8.")
    ] = "int8",
    method: Annotated[
        str | None,
        typer.Option(
            help="How ranges are found: minmax (default), moving-average, percentile, entropy, "
            "mse, or auto: what brings the logits closest to the float model's.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Calibration images. Default: 512, or all if fewer.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Draws the calibration images. Default: 0.", show_default=False),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX", help="Nodes that stay as they are, by name.", show_default=False
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Processor of an int8 model: avx2, avx512-vnni, arm64 or auto (this machine's, "
            "the default).",
            show_default=False,
        ),
    ] = None,
    reduce_range: Annotated[
        bool | None,
        typer.Option(
            "--reduce-range/--no-reduce-range",
            help="Keep int8 weights to 7 bits, or not, whatever the target.",
            show_default=False,
        ),
    ] = None,
    keep_io: Annotated[
        bool | None,
        typer.Option(
            "--keep-io/--half-io",
            help="fp16: input and output stay float32 (default), or not.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=options.finite,
            metavar="POINTS",
            help="Top-1 accuracy may drop by so much. Where it drops by more, the fewest layers "
            "that mend it are kept in --fallback; exit status 1, the best file aside, if none do.",
            show_default=False,
        ),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="DATA",
            help="What --max-drop is measured on, its test part. Default: the training images "
            "that calibration did not use.",
            show_default=False,
        ),
    ] = None,
    search_seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=options.finite,
            help="Time to look for these layers. Default: 300.",
            show_default=False,
        ),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="What layers of --exclude and --max-drop are kept in: float (default), int16 or "
            "fp16.",
            show_default=False,
        ),
    ] = None,
    calib_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep ranges and refinements in FILE; a FILE that is there is used instead of "
            "running images, or refused where model, images or method are others.",
            show_default=False,
        ),
    ] = None,
    calibration_report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what calibration saw and chose, for edgekit report --calibration.",
            show_default=False,
        ),
    ] = None,
    data_dir: options.DataDir = None,
    download: options.Download = False,
    mean: options.Mean = None,
    std: options.Std = None,
    pack: options.PackOption = None,
    codebook: options.Codebook = None,
    uint8_input: Annotated[
        bool,
        typer.Option(
            "--uint8-input",
            help="int8: the input becomes pixels, uint8 [N, height, width, channels], with "
            "normalization folded into the first layer.",
        ),
    ] = False,
    kernels: Annotated[
        Kernels | None,
        typer.Option(
            help="int8: fast (default) stores zeros where onnxruntime has a faster kernel for it, "
            "keep none; openvino quantizes what OpenVINO runs fastest so.",
            show_default=False,
        ),
    ] = None,
    batch_norm: Annotated[
        QuantizedBatchNorm | None,
        typer.Option(
            "--batch-norm",
            help="int8: threshold (default) folds it or turns it into thresholds, keep not.",
            show_default=False,
        ),
    ] = None,
    equalize: Annotated[
        Switch,
        typer.Option(help="Scale channels so that one range serves them; auto: if it helps."),
    ] = Switch.AUTO,
    bias_correction: Annotated[
        Switch,
        typer.Option(help="Take layers' mean errors out of their biases; auto: if it helps."),
    ] = Switch.AUTO,
    rounding: Annotated[
        Rounding,
        typer.Option(help="adaptive: choose weights' codes by what layers give, if it helps."),
    ] = Rounding.NEAREST,
    rounding_seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=options.finite,
            help="Time for adaptive rounding. Default: 60.",
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Convert a model to a smaller precision; static ones calibrate on real images."""
    from edgekit.commands.accuracy_drop import DropLimit
    from edgekit.commands.calibrating import Calibration
    from edgekit.commands.images import DataSource, Normalization
    from edgekit.commands.packing import Packing
    from edgekit.commands.quantize import quantize_file
    from edgekit.commands.target import TargetChoice
    from edgekit.export.quantize import check_fallback
    from edgekit.export.refinement import Refinements
    from edgekit.tables_converting import print_quantize

    def source(name: str | None) -> DataSource | None:
        return None if name is None else DataSource(name, data_dir, download)

    draw = {"method": method, "samples": samples, "seed": seed, "cache": calib_cache}
    named = {"calib-cache" if name == "cache" else name: value for name, value in draw.items()}
    options.refuse_idle(named, needed="--calib", given=calib)
    idle = {"eval": evaluate, "search-seconds": search_seconds}
    options.refuse_idle(idle, needed="--max-drop", given=max_drop)
    if fallback is not None:
        check_fallback(fallback, precision)
    spares = True if exclude is not None or max_drop is not None else None
    options.refuse_idle({"fallback": fallback}, needed="--exclude or --max-drop", given=spares)
    options.refuse_idle(
        options.where_data_is(data_dir, download),
        needed="--calib or --eval",
        given=evaluate if calib is None else calib,
    )
    adaptive = True if rounding is Rounding.ADAPTIVE else None
    timed = {"rounding-seconds": rounding_seconds}
    options.refuse_idle(timed, needed="--rounding adaptive", given=adaptive)
    limit = {"data": source(evaluate), "seconds": search_seconds}
    images = source(calib)
    with naming(model):
        result = quantize_file(
            model,
            output,
            precision=precision,
            calibration=None if images is None else Calibration(images, **options.given(draw)),
            exclude=exclude,
            fallback=fallback or "float",
            keep_io=keep_io,
            max_drop=None if max_drop is None else DropLimit(max_drop, **options.given(limit)),
            normalization=Normalization(options.parse_numbers(mean), options.parse_numbers(std)),
            calibration_report=calibration_report,
            target=TargetChoice(target, reduce_range),
            packing=Packing.chosen(pack, codebook),
            uint8_input=uint8_input,
            kernels=None if kernels is None else kernels.value,
            batch_norm=None if batch_norm is None else batch_norm.value,
            refinements=Refinements(
                equalize.value,
                bias_correction.value,
                rounding.value,
                **options.given({"rounding_seconds": rounding_seconds}),
            ),
            force=force,
        )
    print_quantize(result, format_)
    result.check()
