"""What onnxruntime's arena really takes for activations.

onnxruntime 1.32 gives Python no statistics of its allocators. It does log each extension of its
arena, so that a process that runs the model with that log on tells: weights and what is made of
them when a session opens are reserved apart from the arena's extensions and do not count. The
second run takes memory by the pattern that the first one left, after which no more is taken. The
arena grows in powers of two, hence "took", not "needed".

`python -m edgekit.bench.arena MODEL` writes the log to standard error.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from edgekit.bench.shapes import Shape
from edgekit.runtime.errors import EdgekitError, ModelFileError

TIMEOUT_S = 600
_RUNS = 2
_INFO = 1
_EXTENDED = re.compile(r"Extended allocation by (\d+) bytes")


def arena_bytes(
    model: Path, *, threads: int = 1, input_shapes: Mapping[str, Shape] | None = None
) -> int | None:
    """Bytes that onnxruntime's arena takes from the system to run a model on one sample.

    Args:
        model: An ONNX file.
        threads: Threads within an operator.
        input_shapes: Shapes of inputs by name, for axes that are open in the file; an open axis
            that is not given counts as 1.

    Returns:
        Bytes after two runs with onnxruntime's defaults; None where its log has another form.

    Raises:
        ModelFileError: the model cannot be run.
    """
    command = [sys.executable, "-m", "edgekit.bench.arena", str(model.absolute())]
    command.append(f"--threads={threads}")
    for name, shape in (input_shapes or {}).items():
        command.append(f"--input-shape={name}:" + ",".join(str(size) for size in shape))
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, no shell
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFileError(f"{model}: two runs took more than {TIMEOUT_S} s") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ModelFileError(f"{model}: cannot be run to measure its arena: {reason}")
    return _taken(done.stderr)


def _taken(log: str) -> int | None:
    """Bytes of the arena's extensions, none where the log shows no arena."""
    if "BFCArena" not in log:
        return None
    return sum(int(size) for size in _EXTENDED.findall(log))


def _main() -> int:
    import numpy as np
    import onnxruntime as ort

    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--input-shape", action="append", default=[])
    options = parser.parse_args()
    given = {}
    for entry in options.input_shape:
        name, _, sizes = entry.rpartition(":")
        given[name] = [int(size) for size in sizes.split(",")]
    ort.set_default_logger_severity(_INFO)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    try:
        session = ort.InferenceSession(
            str(options.model), settings, providers=["CPUExecutionProvider"]
        )
        feeds = {
            entry.name: np.zeros(
                given.get(entry.name, [d if isinstance(d, int) else 1 for d in entry.shape]),
                _TYPES[entry.type],
            )
            for entry in session.get_inputs()
        }
        for _ in range(_RUNS):
            session.run(None, feeds)
    except Exception as error:  # onnxruntime's exceptions share no base class
        sys.stderr.write("\n" + " ".join(str(error).split()) + "\n")
        return EdgekitError.exit_status
    return 0


_TYPES = {
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
}


if __name__ == "__main__":
    sys.exit(_main())
