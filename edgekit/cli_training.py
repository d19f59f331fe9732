"""Commands that train: each parses, calls one function and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit import console, options
from edgekit.options import Format
from edgekit.runtime.errors import CheckFailedError


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to fill.")] = Path(
        "edgekit-demo"
    ),
    force: options.Force = False,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Do the whole job on embedded data: train, prune, export, optimize, quantize, bench."""
    from edgekit.commands.bench import BenchResult
    from edgekit.commands.demo import run_demo
    from edgekit.tables_measuring import print_bench

    print_bench(BenchResult(run_demo(output, force=force)), format_)
    console.say(f"models, bench.json, summary.md, front.png and report.html are in {output}")


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A .toml file, or a shipped recipe's name.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The run's folder; runs/NAME by default.", show_default=False
        ),
    ] = None,
    data_dir: options.DataDir = None,
    download: options.Download = False,
    devices: Annotated[int, typer.Option(min=1, help="Devices to train on, a process each.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, when started by torchrun.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu or mps.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Start over, finished or not.")] = False,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Train, prune and distill as a recipe says; an interrupted run is resumed."""
    from edgekit.commands.train import train_recipe
    from edgekit.tables_training import print_run

    result = train_recipe(
        recipe,
        output,
        data_dir=data_dir,
        download=download,
        devices=devices,
        nodes=nodes,
        accelerator=accelerator,
        force=force,
    )
    print_run(result, format_)


def study(
    study_: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="A .toml file, or a shipped study's name."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder for all of it; runs/NAME by default.",
            show_default=False,
        ),
    ] = None,
    data_dir: options.DataDir = None,
    download: options.Download = False,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu or mps.")] = "auto",
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Train a recipe's variants, convert and compare them; an interrupted study is resumed."""
    from edgekit.commands.study import run_study
    from edgekit.tables_training import print_study

    result = run_study(
        study_, output, data_dir=data_dir, download=download, accelerator=accelerator
    )
    print_study(result, format_)
    if result.failures:
        raise typer.Exit(CheckFailedError.exit_status)
