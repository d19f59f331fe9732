"""Commands that write a model: each parses, calls one function and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit import options
from edgekit.options import Format
from edgekit.runtime.errors import naming

_THRESHOLDS = "turn-batch-norm-into-threshold"


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A .safetensors file, a run's folder, or a shipped network's name.",
        ),
    ],
    output: options.Output,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 17 or later.")] = 20,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help=f"Images to compare with torch on: {options.DATA_HELP}. "
            "Default: what the checkpoint was trained on.",
            show_default=False,
        ),
    ] = "",
    data_dir: options.DataDir = None,
    download: options.Download = False,
    samples: Annotated[int, typer.Option(min=1, help="Images to compare on.")] = 256,
    passes: Annotated[
        bool, typer.Option("--optimize/--no-optimize", help="Run the exact graph passes too.")
    ] = True,
    batch_norm: options.BatchNormOption = None,
    force: options.Force = False,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Turn a checkpoint into ONNX, check it against torch, then run the exact passes."""
    from edgekit.commands.export import export_checkpoint
    from edgekit.commands.images import DataSource
    from edgekit.tables_converting import print_export

    options.refuse_idle({"batch-norm": batch_norm}, needed="--optimize", given=passes or None)
    result = export_checkpoint(
        checkpoint,
        output,
        opset=opset,
        data=DataSource(data, data_dir, download),
        samples=samples,
        passes=passes,
        batch_norm=(batch_norm or options.BatchNorm.AUTO).value,
        force=force,
    )
    print_export(result, format_)


def _list_passes(wanted: bool) -> None:
    if wanted:
        from edgekit.tables_converting import print_passes

        print_passes()
        raise typer.Exit


def optimize(
    model: options.Model,
    output: options.Output,
    passes: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Only these passes, in this order.", show_default=False),
    ] = None,
    list_passes: Annotated[
        bool,
        typer.Option(
            "--list-passes", callback=_list_passes, is_eager=True, help="Show them and exit."
        ),
    ] = False,
    batch_norm: options.BatchNormOption = None,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    download: options.Download = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare outputs after each pass.")
    ] = True,
    mean: options.Mean = None,
    std: options.Std = None,
    pack: options.PackOption = None,
    codebook: options.Codebook = None,
    force: options.Force = False,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Run the exact graph passes on any ONNX file; each is checked on images (or noise)."""
    del list_passes
    from edgekit.commands.images import DataSource, Normalization
    from edgekit.commands.optimize import optimize_file
    from edgekit.commands.packing import Packing
    from edgekit.tables_converting import print_optimize

    options.refuse_idle(options.where_data_is(data_dir, download), needed="--data", given=data)
    compared = True if verify else (pack or codebook)
    options.refuse_idle({"data": data}, needed="--verify or --pack", given=compared)
    names = None if passes is None else [name.strip() for name in passes.split(",")]
    options.refuse_idle(
        {"batch-norm": batch_norm},
        needed=f"{_THRESHOLDS} among --passes",
        given=True if names is None or _THRESHOLDS in names else None,
    )
    with naming(model):
        result = optimize_file(
            model,
            output,
            passes=names,
            batch_norm=(batch_norm or options.BatchNorm.AUTO).value,
            data=None if data is None else DataSource(data, data_dir, download),
            verify=verify,
            normalization=Normalization(options.parse_numbers(mean), options.parse_numbers(std)),
            packing=Packing.chosen(pack, codebook),
            force=force,
        )
    print_optimize(result, format_)
