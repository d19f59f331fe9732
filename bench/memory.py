"""Peak resident memory of loading and running one model, in a process that does nothing else.

`python -m edgekit.bench.memory MODEL` prints it in bytes. It includes the interpreter and
onnxruntime, since a device has to hold them too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from edgekit.runtime.errors import EdgekitError, ModelFileError

TIMEOUT_S = 600


def peak_rss_bytes(
    model: Path,
    *,
    batch_size: int = 1,
    threads: int = 1,
    input_shape: tuple[int, ...] | None = None,
) -> int | None:
    """Peak resident memory in bytes of a fresh process that runs the model once.

    Args:
        model: An ONNX file.
        batch_size: Samples in the run.
        threads: Threads within an operator.
        input_shape: Shape of one sample, for a model that leaves it open.

    Returns:
        Bytes, or None where the system does not tell (Windows).

    Raises:
        ModelFileError: the process failed.
    """
    if sys.platform == "win32":
        return None
    command = [sys.executable, "-m", "edgekit.bench.memory", str(model)]
    command += [f"--batch-size={batch_size}", f"--threads={threads}"]
    if input_shape is not None:
        command.append("--input-shape=" + ",".join(str(size) for size in input_shape))
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, no shell
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFileError(f"{model}: one run took more than {TIMEOUT_S} s") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ModelFileError(f"{model}: cannot be run to measure its memory: {reason}")
    return int(done.stdout)


def own_peak_rss_bytes() -> int:
    """Peak resident memory of this process in bytes; Linux and macOS."""
    if sys.platform == "linux":  # getrusage would include the parent's peak from before exec
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _main() -> int:
    import numpy as np

    from edgekit.bench.latency import latency_run
    from edgekit.runtime.session import open_session

    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--input-shape", default="")
    options = parser.parse_args()
    sizes = tuple(int(size) for size in options.input_shape.split(",") if size)
    samples = np.zeros((1, *sizes), np.float32) if sizes else None
    try:
        session = open_session(options.model, threads=options.threads)
        latency_run(session, options.batch_size, samples)()
    except EdgekitError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    sys.stdout.write(f"{own_peak_rss_bytes()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
