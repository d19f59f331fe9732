from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.bench.loadgen import SCENARIOS, read_summary, run_loadgen
from edgekit.runtime.errors import MissingExtraError, ModelFileError

SAMPLES = np.arange(12, dtype=np.float32).reshape(6, 2)


class Recorder:
    """A model that keeps what it was given and takes two milliseconds for it."""

    def __init__(self) -> None:
        self.batches: list[NDArray[np.generic]] = []

    def bind(self, batch: NDArray[np.generic]) -> Callable[[], object]:
        def run() -> None:
            self.batches.append(batch)
            time.sleep(0.002)

        return run


def test_single_stream_sends_one_sample_after_the_other() -> None:
    pytest.importorskip("mlperf_loadgen")
    model = Recorder()
    run = run_loadgen("SingleStream", model.bind, SAMPLES, expected_ms=2, seconds=0.3)
    assert len(model.batches) > 10
    assert {batch.shape for batch in model.batches} == {(1, 2)}
    assert {float(batch[0, 0]) for batch in model.batches} <= set(SAMPLES[:, 0].tolist())
    assert run.p90_latency_ms is not None
    assert run.p90_latency_ms >= 2
    assert run.samples_per_second is None
    assert "Scenario : SingleStream" in run.summary


def test_offline_sends_everything_at_once_in_whole_batches() -> None:
    pytest.importorskip("mlperf_loadgen")
    model = Recorder()
    run = run_loadgen("Offline", model.bind, SAMPLES, batch_size=4, expected_ms=2, seconds=0.1)
    assert {batch.shape for batch in model.batches} == {(4, 2)}
    assert run.samples_per_second is not None
    assert 0 < run.samples_per_second <= 4 / 0.002
    assert run.p90_latency_ms is None
    assert "Scenario : Offline" in run.summary
    assert "samples_per_query" in run.summary


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_model_that_fails_ends_in_an_error_not_in_the_process(scenario: str) -> None:
    pytest.importorskip("mlperf_loadgen")

    def bind(_: NDArray[np.generic]) -> Callable[[], object]:
        raise ValueError("no such operator")

    with pytest.raises(ModelFileError, match="under LoadGen: no such operator"):
        run_loadgen(scenario, bind, SAMPLES, seconds=0.05)


def test_a_summary_is_read_and_kept_word_for_word() -> None:
    text = "SUT name : PySUT\n90.0th percentile latency (ns) : 1084939\nResult is : INVALID\n"
    run = read_summary("SingleStream", text)
    assert run.p90_latency_ms == pytest.approx(1.084939)
    assert not run.valid
    assert run.to_json()["summary"] == text
    with pytest.raises(ModelFileError, match="Offline has no figure"):
        read_summary("Offline", text)


def test_loadgen_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingExtraError, match=r"mlcommons-loadgen.*edgekit\[loadgen\]"):
        run_loadgen("Offline", Recorder().bind, SAMPLES)
