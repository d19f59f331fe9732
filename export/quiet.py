"""Hold back what other people's tools print and log about their own internals."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from edgekit.runtime.errors import ModelFileError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard log records, warnings and what Python code prints while the body runs."""
    handler = logging.NullHandler()  # else the first logging.warning() would install a real one
    root = logging.getLogger()
    previous = logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        root.removeHandler(handler)


@contextlib.contextmanager
def quiet_quantizer() -> Iterator[None]:
    """`quiet`, while onnxruntime's quantizer runs.

    Raises:
        ModelFileError: it fails, on whatever it meets in a graph.
    """
    try:
        with quiet():
            yield
    except Exception as error:
        raise ModelFileError(
            f"onnxruntime cannot quantize the model ({' '.join(str(error).split())}): leave the "
            "node out with --exclude"
        ) from error
