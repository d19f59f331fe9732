"""Cold start and memory: a model's first run, in a process that does nothing else.

`python -m edgekit.bench.cold_start MODEL` is that process; it prints `FirstRun` as JSON. The file
was validated before and lies in the system's page cache, so that neither edgekit's checks nor the
disk are in the time. Memory includes the interpreter and the engine, since a device has to hold
them too; `start_bytes` tells how much of it was there before the model. So this module imports
late, and as little as it can.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edgekit.bench.engines import find_engine
from edgekit.runtime.errors import EdgekitError, InputError, ModelFileError

TIMEOUT_S = 600
STEADY_RUNS = 20


@dataclass(frozen=True)
class FirstRun:
    """What one fresh process saw.

    Attributes:
        import_ms: Milliseconds to import the engine.
        load_ms: From the file to a model that can be run.
        first_run_ms: The first batch.
        start_bytes: Resident memory with the engine imported, before the model; None, as all
            memory, where the system does not tell (Windows).
        loaded_bytes: The same once the model is loaded.
        peak_bytes: Its peak up to the end of the first run.
        steady_bytes: The same after twenty more runs.
    """

    import_ms: float
    load_ms: float
    first_run_ms: float
    start_bytes: int | None
    loaded_bytes: int | None
    peak_bytes: int | None
    steady_bytes: int | None


@dataclass(frozen=True)
class ColdStart:
    """Medians over several fresh processes.

    Attributes:
        processes: How many.
        median: Each figure's median.
    """

    processes: int
    median: FirstRun

    def times_json(self) -> dict[str, float | int]:
        """The value of the key `cold_start_ms`."""
        return {
            "import": self.median.import_ms,
            "load": self.median.load_ms,
            "first_run": self.median.first_run_ms,
            "load_and_first_run": self.median.load_ms + self.median.first_run_ms,
            "processes": self.processes,
        }

    def memory_json(self) -> dict[str, int | None]:
        """The value of the key `memory_bytes`."""
        return {
            "start": self.median.start_bytes,
            "loaded": self.median.loaded_bytes,
            "peak": self.median.peak_bytes,
            "steady": self.median.steady_bytes,
        }


def cold_start(
    model: Path,
    *,
    processes: int = 3,
    engine: str = "onnxruntime",
    batch_size: int = 1,
    threads: int = 1,
    input_shape: tuple[int, ...] | None = None,
) -> ColdStart:
    """Load a model and run it for the first time, in several fresh processes, one by one.

    Args:
        model: An ONNX file.
        processes: How many; the figures are their medians.
        engine: A key of engines.ENGINES.
        batch_size: Samples in the run.
        threads: Threads within an operator.
        input_shape: Shape of one sample, for a model that leaves it open.

    Raises:
        ModelFileError: the file is damaged, or a process failed.
        InputError: `processes` is below one.
    """
    if processes < 1:
        raise InputError(f"cold starts {processes} must be at least 1")
    from edgekit.runtime.model_file import read_model  # the fresh process does without it

    read_model(model)
    command = [sys.executable, "-m", "edgekit.bench.cold_start", str(model.absolute())]
    command += [f"--engine={engine}", f"--batch-size={batch_size}", f"--threads={threads}"]
    if input_shape is not None:
        command.append("--input-shape=" + ",".join(str(size) for size in input_shape))
    seen = [_fresh_process(command, model) for _ in range(processes)]
    medians = {field.name: _median(seen, field.name) for field in fields(FirstRun)}
    return ColdStart(processes, FirstRun(**medians))  # type: ignore[arg-type]


def _fresh_process(command: Sequence[str], model: Path) -> FirstRun:
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, no shell
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFileError(f"{model}: its first runs took more than {TIMEOUT_S} s") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ModelFileError(f"{model}: cannot be run in a process of its own: {reason}")
    return FirstRun(**json.loads(done.stdout.splitlines()[-1]))


def _median(seen: Sequence[FirstRun], name: str) -> float | int | None:
    values = [getattr(one, name) for one in seen]
    if any(value is None for value in values):
        return None
    middle = statistics.median(values)
    return int(middle) if name.endswith("_bytes") else middle


def _first_run(options: argparse.Namespace) -> FirstRun:
    engine = find_engine(options.engine)
    times = [time.perf_counter()]
    memory = []
    engine.prepare()
    times.append(time.perf_counter())
    memory.append(_memory())
    loaded = engine.open(options.model, options.threads)
    times.append(time.perf_counter())
    memory.append(_memory())
    import numpy as np

    from edgekit.bench.latency import fill_batch

    sizes = tuple(int(size) for size in options.input_shape.split(",") if size)
    samples = np.zeros((1, *sizes), np.float32) if sizes else None
    run = loaded.bind(fill_batch(loaded.input, options.batch_size, samples))
    started = time.perf_counter()
    run()
    first = time.perf_counter() - started
    peak = _memory(peak=True)
    for _ in range(STEADY_RUNS):
        run()
    return FirstRun(
        import_ms=(times[1] - times[0]) * 1e3,
        load_ms=(times[2] - times[1]) * 1e3,
        first_run_ms=first * 1e3,
        start_bytes=memory[0],
        loaded_bytes=memory[1],
        peak_bytes=peak,
        steady_bytes=_memory(),
    )


def _memory(*, peak: bool = False) -> int | None:
    if sys.platform == "win32":
        return None
    from edgekit.bench.memory import own_peak_rss_bytes, own_rss_bytes

    return own_peak_rss_bytes() if peak else own_rss_bytes()


def _main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--input-shape", default="")
    try:
        seen = _first_run(parser.parse_args())
    except EdgekitError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    sys.stdout.write(json.dumps(asdict(seen)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
