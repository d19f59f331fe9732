"""The command line: each command parses, calls one function and prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekit import __version__, console, options
from edgekit.options import Format
from edgekit.runtime.errors import EdgekitError, InputError, MissingExtraError

app = typer.Typer(
    name="edgekit",
    help="From a trained PyTorch image classifier to the smallest, fastest honest ONNX file.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# Packages that only extras install, by the name that an import error gives.
EXTRAS = {
    "jinja2": "report",
    "lightning": "train",
    "markupsafe": "report",
    "matplotlib": "report",
    "mlperf_loadgen": "loadgen",
    "onnx2torch": "torch-engine",
    "openvino": "openvino",
    "safetensors": "train",
    "sklearn": "digits",
    "torch": "train",
    "torch_pruning": "train",
    "torchmetrics": "train",
    "torchvision": "train",
}


# What typer raises for wrong usage; it names no common base of its own.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
UNEXPECTED = 70  # sysexits.h: an error of the program itself
INTERRUPTED = 130  # as shells say it: 128 and the number of SIGINT


def main() -> None:
    """Run the command line; every expected error is one line on standard error."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]  # allowed anywhere
    sys.argv = options.with_pack_form(sys.argv)
    console.log_to_standard_error()
    try:
        _run_app()
    except EdgekitError as error:
        if debug:
            raise
        console.say(f"edgekit: {error}")
        sys.exit(error.exit_status)
    except Exception as error:
        if debug:
            raise
        reason = " ".join(str(error).split())
        console.say(
            f"edgekit: unexpected {type(error).__name__}: {reason}; run it again with --debug and "
            "report what it shows"
        )
        sys.exit(UNEXPECTED)


def _run_app() -> None:
    """The app, with the errors that any step may meet put into edgekit's words."""
    try:
        status = app(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except USAGE_ERROR as error:
        raise InputError(_usage_message(error)) from error
    except typer.Abort:
        console.say("edgekit: interrupted")
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise MissingExtraError(package, EXTRAS[package]) from error
    except OSError as error:
        where = error.filename or "the system"
        raise EdgekitError(f"{where}: {error.strerror or error}") from error


def _usage_message(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "edgekit"
    text = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    return f"{text.rstrip('.')}; see {command} --help"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgekit {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    del debug, version  # main() and the callback above see to them
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
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
    from edgekit.tables import print_bench

    print_bench(BenchResult(run_demo(output, force=force)), format_)
    console.say(f"models, bench.json, summary.md, front.png and report.html are in {output}")


@app.command()
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
    from edgekit.tables import print_run

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


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors file, or a run's folder.")
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
    batch_norm: options.BatchNormOption = options.BatchNorm.AUTO,
    force: options.Force = False,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Turn a checkpoint into ONNX, check it against torch, then run the exact passes."""
    from edgekit.commands.export import export_checkpoint
    from edgekit.commands.images import DataSource
    from edgekit.tables import print_export

    result = export_checkpoint(
        checkpoint,
        output,
        opset=opset,
        data=DataSource(data, data_dir, download),
        samples=samples,
        passes=passes,
        batch_norm=batch_norm.value,
        force=force,
    )
    print_export(result, format_)


def _list_passes(wanted: bool) -> None:
    if wanted:
        from edgekit.tables import print_passes

        print_passes()
        raise typer.Exit


@app.command()
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
    batch_norm: options.BatchNormOption = options.BatchNorm.AUTO,
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
    from edgekit.tables import print_optimize

    result = optimize_file(
        model,
        output,
        passes=None if passes is None else [name.strip() for name in passes.split(",")],
        batch_norm=batch_norm.value,
        data=None if data is None else DataSource(data, data_dir, download),
        verify=verify,
        normalization=Normalization(options.parse_numbers(mean), options.parse_numbers(std)),
        packing=Packing.chosen(pack, codebook),
        force=force,
    )
    print_optimize(result, format_)


@app.command()
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
            help="How ranges are found: minmax (default), percentile or entropy.",
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
    keep_io: Annotated[
        bool, typer.Option("--keep-io/--half-io", help="fp16: input and output stay float32.")
    ] = True,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="POINTS",
            help="Fail (exit status 1, nothing written) if top-1 accuracy drops by more.",
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
    force: options.Force = False,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Convert a model to a smaller precision; static ones calibrate on real images."""
    from edgekit.commands.images import DataSource, Normalization
    from edgekit.commands.packing import Packing
    from edgekit.commands.quantize import Calibration, DropLimit, quantize_file
    from edgekit.tables import print_quantize

    def source(name: str | None) -> DataSource | None:
        return None if name is None else DataSource(name, data_dir, download)

    draw = {"method": method, "samples": samples, "seed": seed}
    options.refuse_idle(draw, needed="--calib", given=calib)
    options.refuse_idle({"eval": evaluate}, needed="--max-drop", given=max_drop)
    images = source(calib)
    result = quantize_file(
        model,
        output,
        precision=precision,
        calibration=None if images is None else Calibration(images, **options.given(draw)),
        exclude=exclude,
        keep_io=keep_io,
        max_drop=None if max_drop is None else DropLimit(max_drop, source(evaluate)),
        normalization=Normalization(options.parse_numbers(mean), options.parse_numbers(std)),
        calibration_report=calibration_report,
        packing=Packing.chosen(pack, codebook),
        force=force,
    )
    print_quantize(result, format_)


@app.command()
def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL.onnx...", help="The first is the reference.")
    ],
    data: options.Data = None,
    data_dir: options.DataDir = None,
    download: options.Download = False,
    split: Annotated[options.Part, typer.Option(help="Part of the data.")] = options.Part.TEST,
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
        float, typer.Option(min=0.01, help="Least duration of a LoadGen scenario.")
    ] = 10.0,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Fail (exit status 1) if a model's top-1 is lower.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
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
    force: options.Force = False,
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
    from edgekit.tables import print_bench

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
        loadgen_seconds=loadgen_seconds,
    )
    source = None if data is None else DataSource(data, data_dir, download)
    gates = Gates(min_accuracy, max_drop, max_bytes, max_latency_ratio)
    limits = Limits(gates, baseline, junit, force)
    result = bench_against(models, source, split.value, settings, limits)
    print_bench(result, format_)
    require_gates(result.checks or ())
    if strict:
        check_counted(model.figures for model in result.report.models)


@app.command()
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


@app.command()
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
    port: Annotated[int, typer.Option(min=0, max=65535, help="Netron's port; 0: any.")] = 8080,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser on Netron's page.")
    ] = True,
    format_: options.FormatOption = Format.TABLE,
) -> None:
    """Show what is in a file, or what differs between two, node by node."""
    from dataclasses import replace

    from edgekit.bench.graph_diff import GraphDiff
    from edgekit.bench.scores import ScoreConventions
    from edgekit.commands.inspect import Subject, show_in_netron
    from edgekit.tables import print_diff, print_inspection

    subject = replace(
        Subject.chosen(model, before, after, options.parse_shapes(input_shape)),
        conventions=ScoreConventions(mask_bits, accumulator_bits, free_16_bits),
        strict=strict,
    )
    if results is not None and not netron:
        raise InputError("--results are shown in Netron alone: add --netron")
    found = subject.inspect()

    def report() -> None:
        if isinstance(found, GraphDiff):
            print_diff(found, format_)
        else:
            print_inspection(found, format_)

    if netron:
        show_in_netron(subject, found, report, results=results, port=port, browse=browser)
    else:
        report()
    subject.check(found)


@app.command()
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
    from edgekit.tables import print_predictions

    normalization = Normalization(options.parse_numbers(mean), options.parse_numbers(std))
    print_predictions(predict_images(model, images, top=top, normalization=normalization), format_)
