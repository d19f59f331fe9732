"""The command line: its table of commands, and what any of them may end with."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edgekit import __version__, console, options
from edgekit.cli_converting import export, optimize
from edgekit.cli_looking import doctor, inspect, predict
from edgekit.cli_measuring import bench, compare, report
from edgekit.cli_quantizing import quantize
from edgekit.cli_training import demo, study, train
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
    "tomli_w": "train",
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
    console.write_any_character()
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
        if status == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(status if isinstance(status, int) else 0)
    except USAGE_ERROR as error:
        raise InputError(_usage_message(error)) from error
    except (KeyboardInterrupt, typer.Abort):
        console.say("edgekit: interrupted")
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise MissingExtraError(package, EXTRAS[package]) from error
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        raise EdgekitError(
            f"memory does not suffice{reason}: use a model of smaller images, or less data"
        ) from error
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


COMMANDS = (
    demo,
    train,
    study,
    export,
    optimize,
    quantize,
    bench,
    compare,
    report,
    inspect,
    predict,
    doctor,
)
for _command in COMMANDS:
    app.command()(_command)
