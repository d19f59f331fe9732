"""Commands that look into one thing: each parses, calls one function and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit import options
from edgekit.options import Format
from edgekit.runtime.errors import InputError, naming


def inspect(
    model: options.OneModel = None,
    before: Annotated[
        Path | None,
        typer.Option(metavar="OLD.onnx", help="Compare this model ...", show_default=False),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(metavar="NEW.onnx", help="... with what was made of it.", show_default=False),
    ] = None,
    input_shape: options.InputShape = None,
    strict: options.Strict = False,
    mask_bits: options.MaskBits = 1,
    accumulator_bits: options.AccumulatorBits = 32,
    free_16_bits: options.Free16Bits = False,
    netron: Annotated[
        bool,
        typer.Option("--netron", help="Open the graph in Netron with our figures, until Ctrl-C."),
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="BENCH.json",
            help="What bench --format json measured, for --netron.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Netron's port; 0: any. Default: 8080.", show_default=False
        ),
    ] = None,
    browser: Annotated[
        bool | None,
        typer.Option(
            "--browser/--no-browser",
            help="Open a browser on Netron's page, or not. Default: open.",
            show_default=False,
        ),
    ] = None,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Show what is in a file, or what differs between two, node by node."""
    from dataclasses import replace

    from edgekit.bench.graph_diff import GraphDiff
    from edgekit.bench.scores import ScoreConventions
    from edgekit.commands.inspect import Subject, show_in_netron
    from edgekit.tables_looking import print_diff, print_inspection

    subject = replace(
        Subject.chosen(model, before, after, options.parse_shapes(input_shape)),
        conventions=ScoreConventions(mask_bits, accumulator_bits, free_16_bits),
        strict=strict,
    )
    subject.check_meant(netron=netron)
    idle = {"port": port, "browser" if browser else "no-browser": browser}
    options.refuse_idle(idle, needed="--netron", given=netron or None)
    if results is not None and not netron:
        raise InputError("--results are shown in Netron alone: add --netron")
    found = subject.inspect()

    def report() -> None:
        if isinstance(found, GraphDiff):
            print_diff(found, format_)
        else:
            print_inspection(found, format_)

    if netron:
        where = 8080 if port is None else port
        show_in_netron(
            subject, found, report, results=results, port=where, browse=browser is not False
        )
    else:
        report()
    subject.check(found)


def predict(
    model: options.Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each image.")] = 3,
    mean: options.Mean = None,
    std: options.Std = None,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Classify images: classes and probabilities."""
    from edgekit.commands.images import Normalization
    from edgekit.commands.predict import predict_images
    from edgekit.tables_looking import print_predictions

    normalization = Normalization(options.parse_numbers(mean), options.parse_numbers(std))
    with naming(model):
        predictions = predict_images(model, images, top=top, normalization=normalization)
    print_predictions(predictions, format_)


def doctor(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL.onnx", help="Check its layers for overflow on AVX2.", show_default=False
        ),
    ] = None,
    convolutions: Annotated[int, typer.Option(min=1, help="Random convolutions to check.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Draws them.")] = 0,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Tell whether int8 models run fast and exactly on this machine."""
    from edgekit.commands.doctor import diagnose
    from edgekit.tables_looking import print_diagnosis

    found = diagnose(model, convolutions=convolutions, seed=seed)
    print_diagnosis(found, format_)
    found.check()
