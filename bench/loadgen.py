"""MLPerf's LoadGen drives a model; its own summary is kept as it wrote it.

SingleStream sends one sample after the other and asks for the 90th percentile of latency; Offline
sends all samples at once and asks for the throughput (V. J. Reddi et al., MLPerf Inference
Benchmark, ISCA 2020). A submission to MLPerf lasts ten minutes and more and has rules beyond the
load; a shorter run here is LoadGen's measurement, and no MLPerf result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.errors import MissingExtraError, ModelFileError

# Scenario -> where LoadGen's summary states its figure.
SCENARIOS: dict[str, str] = {
    "SingleStream": "90.0th percentile latency (ns)",
    "Offline": "Samples per second",
}
_SUMMARY = "mlperf_log_summary.txt"


@dataclass(frozen=True)
class LoadgenRun:
    """What LoadGen says of one scenario.

    Attributes:
        scenario: A key of `SCENARIOS`.
        valid: Whether LoadGen calls the run valid: long enough, with enough queries.
        p90_latency_ms: SingleStream's figure; None for Offline.
        samples_per_second: Offline's figure; None for SingleStream.
        summary: LoadGen's summary, word for word.
    """

    scenario: str
    valid: bool
    p90_latency_ms: float | None
    samples_per_second: float | None
    summary: str

    def to_json(self) -> dict[str, Any]:
        """An entry of the key `loadgen`."""
        return asdict(self)


def run_loadgen(
    scenario: str,
    bind: Callable[[NDArray[np.generic]], Callable[[], object]],
    samples: NDArray[np.generic],
    *,
    batch_size: int = 1,
    expected_ms: float = 1.0,
    seconds: float = 10.0,
) -> LoadgenRun:
    """Let LoadGen run one scenario on a model.

    Args:
        scenario: A key of `SCENARIOS`.
        bind: Makes a function that runs one batch; see `engines.LoadedModel`.
        samples: The sample library, of the type that the model takes: [N, ...].
        batch_size: Samples that the model gets at once in Offline; 1 in SingleStream.
        expected_ms: About how long a batch takes, from which LoadGen plans its queries.
        seconds: How long the run lasts at least.

    Raises:
        MissingExtraError: the package mlcommons-loadgen is not installed.
        ModelFileError: the model failed, or LoadGen wrote no summary.
    """
    loadgen = import_loadgen()
    settings = loadgen.TestSettings()
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.min_duration_ms = max(1, round(seconds * 1e3))
    settings.min_query_count = 1
    settings.single_stream_expected_latency_ns = max(1, round(expected_ms * 1e6))
    settings.offline_expected_qps = batch_size / expected_ms * 1e3
    size = batch_size if scenario == "Offline" else 1
    failures: list[Exception] = []

    def issue(queries: Sequence[Any]) -> None:
        for start in range(0, len(queries), size):
            batch = queries[start : start + size]
            try:
                if not failures:
                    chosen = [query.index for query in batch]
                    chosen += chosen[-1:] * (size - len(chosen))  # the file may fix the batch size
                    bind(np.ascontiguousarray(samples[chosen]))()
            except Exception as error:  # one that reached LoadGen would end the process
                failures.append(error)
            loadgen.QuerySamplesComplete(
                [loadgen.QuerySampleResponse(query.id, 0, 0) for query in batch]
            )

    summary = _start_test(loadgen, settings, issue, len(samples))
    if failures:
        raise ModelFileError(f"the model failed under LoadGen: {failures[0]}") from failures[0]
    return read_summary(scenario, summary)


def read_summary(scenario: str, summary: str) -> LoadgenRun:
    """Find the scenario's figure in LoadGen's summary.

    Raises:
        ModelFileError: it is not there.
    """
    figures: dict[str, str] = {}
    for line in summary.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            figures.setdefault(key.strip(), value.strip())
    try:
        figure = float(figures[SCENARIOS[scenario]])
    except (KeyError, ValueError):
        raise ModelFileError(f"LoadGen's summary of {scenario} has no figure") from None
    single = scenario == "SingleStream"
    return LoadgenRun(
        scenario,
        valid=figures.get("Result is") == "VALID",
        p90_latency_ms=figure / 1e6 if single else None,
        samples_per_second=None if single else figure,
        summary=summary,
    )


def _start_test(
    loadgen: Any, settings: Any, issue: Callable[[Sequence[Any]], None], samples: int
) -> str:
    with tempfile.TemporaryDirectory(prefix="edgekit-loadgen-") as folder:
        output = loadgen.LogOutputSettings()
        output.outdir = folder
        output.copy_summary_to_stdout = False
        log = loadgen.LogSettings()
        log.log_output = output
        log.enable_trace = False
        system = loadgen.ConstructSUT(issue, lambda: None)
        library = loadgen.ConstructQSL(samples, samples, lambda _: None, lambda _: None)
        try:
            loadgen.StartTestWithLogSettings(system, library, settings, log, "")
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(system)
        path = Path(folder) / _SUMMARY
        if not path.is_file():
            raise ModelFileError("LoadGen wrote no summary; run it again")
        return path.read_text("utf-8", errors="replace")


def import_loadgen() -> Any:
    """LoadGen's Python module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise MissingExtraError("mlcommons-loadgen", "loadgen") from error
    return mlperf_loadgen
