"""`--method auto`: of all calibration methods, the one that suits the model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.export.agreement import agreement
from edgekit.export.calibration import CalibrationReader
from edgekit.export.calibrators import AUTO, CALIBRATORS, calibrator
from edgekit.export.calibrators.cache import CalibrationCache
from edgekit.export.graph import to_proto
from edgekit.export.method_choice import MethodChoice, choose_method
from edgekit.export.quantize import quantize
from edgekit.export.refinement import Refinements
from edgekit.export.refinement_samples import Samples
from edgekit.export.static_options import StaticOptions

PLAIN = StaticOptions(
    reduce_range=True, refinements=Refinements(equalize="off", bias_correction="off")
)
NETWORK = """g (float[N, 4, 6, 6] x) => (float[N, 5] y) {
    conv = Conv(x, w)
    relu = Relu(conv)
    pooled = GlobalAveragePool(relu)
    flat = Flatten(pooled)
    y = Gemm<transB = 1>(flat, v)
}"""


@pytest.fixture
def network(text_graph: Callable[..., ir.Model]) -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {"w": (8, 4, 3, 3), "v": (5, 8)}
    return text_graph(
        NETWORK, **{name: rng.normal(size=s).astype(np.float32) for name, s in weights.items()}
    )


def samples(*, outlier: float) -> CalibrationReader:
    """256 of them, of which the first has one value that is far off."""
    batch = np.random.default_rng(1).normal(size=(256, 4, 6, 6)).astype(np.float32)
    batch[0, 0, 0, 0] = outlier
    return CalibrationReader.from_feeds([{"x": part} for part in np.split(batch, 8)])


@pytest.mark.parametrize("outlier", [1000.0, 0.0])
def test_the_closest_to_the_float_model_is_taken(network: ir.Model, outlier: float) -> None:
    reader = samples(outlier=outlier)
    judges = Samples.of(reader).judges

    def ratio(method: str) -> float:
        found = quantize(network, "int8", reader=reader, method=method, static=PLAIN)
        ratio = agreement(network, found.model, judges).snr_db
        assert ratio is not None
        return ratio

    ratios = {method: ratio(method) for method in CALIBRATORS}
    best = max(ratios, key=lambda method: ratios[method])
    assert (ratios[best] > ratios["minmax"] + 10) is bool(outlier)
    chosen = quantize(network, "int8", reader=reader, method=AUTO, static=PLAIN)
    settings = dict(chosen.report.settings)
    trials = settings.pop("refinements")
    assert settings["method"] == best
    kept = [trial for trial in trials if trial["kept"]]
    assert {trial["step"] for trial in trials} == {"method"}
    assert [trial["what"].split(",")[0] for trial in kept][-1:] == [best] * (best != "minmax")
    named = quantize(network, "int8", reader=reader, method=best, static=PLAIN)
    assert settings == dict(named.report.settings)
    graphs = [to_proto(one.model).graph.SerializeToString() for one in (chosen, named)]
    assert graphs[0] == graphs[1]


def test_data_are_read_once_for_all_methods(
    network: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = samples(outlier=50.0)
    apart = {
        method: calibrator(method).ranges(network, reader, ("Conv",)) for method in CALIBRATORS
    }
    cache = CalibrationCache()
    assert calibrator(AUTO, cache=cache).candidates(network, reader, ("Conv",)) == apart
    assert apart["minmax"] != apart["percentile"]
    monkeypatch.setattr(
        "edgekit.export.calibrators.table.observe", lambda *_, **__: pytest.fail("ran again")
    )
    assert calibrator(AUTO, cache=cache).candidates(network, reader, ("Conv",)) == apart


def test_equal_ranges_are_tried_once_and_the_first_stays(network: ir.Model) -> None:
    reader = samples(outlier=0.0)
    ranges = calibrator("minmax").ranges(network, reader, ("Conv",))
    tried = []

    def convert(found: object) -> ir.Model:
        tried.append(found)
        return network

    judges = Samples.of(reader).judges
    same = choose_method(network, {"a": ranges, "b": dict(ranges)}, convert, judges, print)
    assert same == MethodChoice("a")
    other = choose_method(network, {"a": ranges, "b": {}}, convert, judges, print)
    assert (other.method, [trial.kept for trial in other.trials]) == ("a", [False])
    assert tried == [ranges, ranges, {}]


def test_a_choice_comes_back_from_its_finding() -> None:
    choice = MethodChoice("mse")
    assert MethodChoice.of(choice.to_finding(), ("minmax", "mse")) == choice
    with pytest.raises(ValueError, match="mse"):
        MethodChoice.of(choice.to_finding(), ("minmax", "entropy"))
