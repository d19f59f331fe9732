from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.bench.latency import latency_run, measure, summarize
from edgekit.runtime.errors import DataError, InputError
from edgekit.runtime.session import open_session


def test_models_take_turns_and_each_round_starts_with_another() -> None:
    calls: list[str] = []
    runs = [lambda: calls.append("a"), lambda: calls.append("b")]
    times = measure(runs, warmup=2, iterations=20)
    assert [len(series) for series in times] == [20, 20]
    assert "".join(calls) == "aabb" + ("aaabbb" + "bbbaaa") * 5  # a refill and two timed runs


def test_an_uneven_number_of_iterations_is_run_in_full() -> None:
    done: list[tuple[int, int]] = []
    times = measure([int], warmup=0, iterations=13, progress=lambda *step: done.append(step))
    assert len(times[0]) == 13
    assert done[-1] == (13, 13)


def test_times_are_the_time_of_one_run() -> None:
    import time

    (series,) = measure([lambda: time.sleep(0.002)], warmup=0, iterations=5)
    assert 0.002 <= series.min() < 0.05


def test_percentiles_are_in_milliseconds() -> None:
    latency = summarize(np.arange(1, 101) / 1000, batch_size=4)
    assert (latency.min_ms, latency.p50_ms, latency.mean_ms) == pytest.approx((1, 50.5, 50.5))
    assert latency.p90_ms == pytest.approx(90.1)
    assert latency.p99_ms == pytest.approx(99.01)
    assert latency.throughput_ips == pytest.approx(4 / 0.0505)


@pytest.mark.parametrize(("warmup", "iterations"), [(-1, 5), (0, 0)])
def test_counts_out_of_range_are_refused(warmup: int, iterations: int) -> None:
    with pytest.raises(InputError, match="at least"):
        measure([int], warmup=warmup, iterations=iterations)


def one_node(tmp_path: Path, kind: str, shape: str) -> Path:
    text = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    agraph ({kind}[{shape}] x) => ({kind}[{shape}] y) {{ y = Identity (x) }}
    """
    path = tmp_path / "one.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


@pytest.mark.parametrize("kind", ["float", "float16", "double", "uint8"])
def test_the_batch_has_the_type_that_the_model_takes(tmp_path: Path, kind: str) -> None:
    session = open_session(one_node(tmp_path, kind, "n, 3"))
    outputs = latency_run(session, 5)()
    assert isinstance(outputs, list)
    assert outputs[0].shape == (5, 3)


def test_real_samples_fill_the_batch(tmp_path: Path) -> None:
    session = open_session(one_node(tmp_path, "float", "n, 3"))
    outputs = latency_run(session, 3, np.array([[1, 2, 3], [4, 5, 6]], np.float32))()
    assert isinstance(outputs, list)
    np.testing.assert_array_equal(outputs[0], [[1, 2, 3], [4, 5, 6], [1, 2, 3]])


def test_a_fixed_batch_says_which_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--batch-size 8"):
        latency_run(open_session(one_node(tmp_path, "float", "8, 3")), 1)


def test_samples_of_another_size_are_refused(tmp_path: Path) -> None:
    session = open_session(one_node(tmp_path, "float", "n, 3"))
    with pytest.raises(DataError, match=r"takes \['n', 3\], the data gives \['N', 4\]"):
        latency_run(session, 1, np.zeros((1, 4), np.float32))


def test_open_axes_need_samples(tmp_path: Path) -> None:
    session = open_session(one_node(tmp_path, "float", "n, m"))
    with pytest.raises(InputError, match="open axes"):
        latency_run(session, 1)


def test_a_model_that_does_more_takes_longer(classifier_file: Callable[..., Path]) -> None:
    session = open_session(classifier_file())
    small, large = latency_run(session, 1), latency_run(session, 512)
    times = measure([small, large], warmup=2, iterations=10)
    assert np.median(times[1]) > np.median(times[0])
