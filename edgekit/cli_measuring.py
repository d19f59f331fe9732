"""Commands that measure models: each parses, calls one function and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit import console, options
from edgekit.options import Format


def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL.onnx...", help="The first is the reference.")
    ],
    data: options.Data = None,
    data_dir: options.DataDir = None,
    download: options.Download = False,
    split: Annotated[
        options.Part | None,
        typer.Option(help="Part of the data. Default: test.", show_default=False),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What runs the models: onnxruntime, openvino or torch.")
    ] = "onnxruntime",
    threads: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Threads; latency is measured at each number.")
    ] = "1",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Samples a timed run. Default: 1.", show_default=False),
    ] = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Measure latency at each; the first is --batch-size unless that is given.",
            show_default=False,
        ),
    ] = None,
    warmup: Annotated[
        int, typer.Option(min=0, help="Runs a window of warm-up, which goes on until times settle.")
    ] = 10,
    iterations: Annotated[int, typer.Option(min=1, help="Timed runs of each model.")] = 100,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Measure accuracy on so many images.", show_default=False),
    ] = None,
    signal_to_noise: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="IMAGES",
            help="Compare each model with the first, layer by layer, on so many images.",
            show_default=False,
        ),
    ] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Stay on as many cores as threads.")] = False,
    cold_starts: Annotated[
        int, typer.Option(min=0, help="Fresh processes a model for cold start and memory.")
    ] = 3,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the time goes, by operator.")
    ] = False,
    loadgen: Annotated[
        str | None,
        typer.Option(
            metavar="SCENARIO",
            help="Run MLPerf LoadGen: SingleStream, Offline or both.",
            show_default=False,
        ),
    ] = None,
    loadgen_seconds: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=86_400,
            callback=options.finite,
            help="Least duration of a LoadGen scenario. Default: 10.",
            show_default=False,
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=options.finite,
            help="Fail (exit status 1) if a model's top-1 is lower.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=options.finite,
            metavar="POINTS",
            help="Fail if top-1 is lower than the first model's, or the baseline's, by more.",
            show_default=False,
        ),
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=0, help="Fail if a file is larger.", show_default=False)
    ] = None,
    max_latency_ratio: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=options.finite,
            help="Fail if median latency is more of the first model's, or the baseline's.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="RESULTS.json", help="Compare with an earlier run.", show_default=False
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the outcome of the gates as JUnit XML.", show_default=False
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the --junit file if it exists.")
    ] = False,
    strict: options.Strict = False,
    mask_bits: options.MaskBits = 1,
    accumulator_bits: options.AccumulatorBits = 32,
    free_16_bits: options.Free16Bits = False,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    std: options.Std = None,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Measure models side by side: accuracy, counts, size, latency, scores."""
    from edgekit.bench.figures import check_counted
    from edgekit.bench.gates import Gates, require_gates
    from edgekit.bench.scores import ScoreConventions
    from edgekit.bench.settings import BenchSettings
    from edgekit.commands.bench import Limits, bench_against
    from edgekit.commands.images import DataSource
    from edgekit.tables_measuring import print_bench

    named_sets = options.where_data_is(data_dir, download)
    idle = {"split": split, "limit": limit, "mean": mean, "std": std, **named_sets}
    options.refuse_idle(idle, needed="--data", given=data)
    options.refuse_idle({"force": force or None}, needed="--junit", given=junit)
    options.refuse_idle({"loadgen-seconds": loadgen_seconds}, needed="--loadgen", given=loadgen)
    if signal_to_noise is not None and data is not None and len(models) == 1:
        raise typer.BadParameter(
            "--signal-to-noise compares with the first model: give two or more"
        )
    first_threads, *more_threads = options.parse_counts("--threads", threads)
    sizes = () if batch_sizes is None else options.parse_counts("--batch-sizes", batch_sizes)
    settings = BenchSettings(
        engine=engine,
        threads=first_threads,
        sweep_threads=tuple(more_threads),
        batch_size=batch_size or (sizes[0] if sizes else 1),
        sweep_batch_sizes=sizes,
        warmup=warmup,
        iterations=iterations,
        limit=limit,
        mean=options.parse_numbers(mean),
        std=options.parse_numbers(std),
        input_shapes=options.parse_shapes(input_shape),
        conventions=ScoreConventions(mask_bits, accumulator_bits, free_16_bits),
        noise_images=signal_to_noise,
        pin=pin,
        cold_starts=cold_starts,
        profile=profile,
        loadgen=options.parse_scenarios(loadgen),
        loadgen_seconds=10.0 if loadgen_seconds is None else loadgen_seconds,
    )
    source = None if data is None else DataSource(data, data_dir, download)
    gates = Gates(min_accuracy, max_drop, max_bytes, max_latency_ratio)
    limits = Limits(gates, baseline, junit, force)
    part = (split or options.Part.TEST).value
    result = bench_against(models, source, part, settings, limits)
    print_bench(result, format_)
    require_gates(result.checks or ())
    if strict:
        check_counted(model.figures for model in result.report.models)


def compare(
    before: Annotated[
        Path, typer.Argument(metavar="A.onnx", help="The reference.", show_default=False)
    ],
    after: Annotated[
        Path, typer.Argument(metavar="B.onnx", help="What was made of it.", show_default=False)
    ],
    data: Annotated[
        str, typer.Option(metavar="DATA", help=f"{options.DATA_HELP}.", show_default=False)
    ],
    data_dir: options.DataDir = None,
    download: options.Download = False,
    split: Annotated[options.Part, typer.Option(help="Part of the data.")] = options.Part.TEST,
    samples: Annotated[
        int, typer.Option(min=1, help="Images, spread evenly over it; all if it has fewer.")
    ] = 512,
    top: Annotated[int, typer.Option(min=1, help="Rows of each table; JSON has all.")] = 10,
    mean: options.Mean = None,
    std: options.Std = None,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Show where two versions of a model differ: tensors by signal-to-noise, and images."""
    from edgekit.commands.compare import compare_files
    from edgekit.commands.images import DataSource, Normalization
    from edgekit.tables_measuring import print_comparison

    result = compare_files(
        before,
        after,
        DataSource(data, data_dir, download),
        split.value,
        samples=samples,
        normalization=Normalization(options.parse_numbers(mean), options.parse_numbers(std)),
    )
    print_comparison(result, format_, top)


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS.json...", help="From bench --format json.")
    ],
    output: options.Output,
    format_: Annotated[
        options.ReportFormat | None,
        typer.Option(
            "--format",
            help="html, md or png (the plots of accuracy alone). Default: the output's ending.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="From quantize --calibration-report; may be repeated.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="The page's heading.", show_default=False)] = "",
    force: options.Force = False,
) -> None:
    """Write results of bench as a page to look at: one file, no network."""
    from edgekit.commands.report import write_report

    left_out = write_report(
        results,
        output,
        format_=format_,
        calibrations=calibration or [],
        title=title,
        force=force,
    )
    for line in left_out:
        console.say(f"note: {line}")
    console.say(f"wrote {output}")
