from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgekit.export.calibration import CalibrationReader, stratified_sample
from edgekit.export.calibrators import CALIBRATORS, calibrator
from edgekit.export.graph import to_proto
from edgekit.export.quantize import quantize
from edgekit.runtime.data.digests import digest
from edgekit.runtime.data.load import load_split
from edgekit.runtime.data.source import ArrayImages, Split
from edgekit.runtime.errors import DataError, InputError, ModelFileError
from edgekit.runtime.preprocessing import Preprocessing

DIGITS = Preprocessing(8, 8, (0.3,), (0.36,), tuple("0123456789"))


@pytest.fixture
def split() -> Split:
    return load_split("digits", "train")


@pytest.fixture
def model(text_graph: Callable[..., ir.Model]) -> ir.Model:
    generator = np.random.default_rng(0)
    return text_graph(
        """g (float[batch, 1, 8, 8] input) => (float[batch, 3] logits) {
            a = Conv(input, w)
            r = Relu(a)
            f = Flatten(r)
            logits = Gemm(f, m)
        }""",
        w=generator.standard_normal((4, 1, 3, 3), np.float32),
        m=generator.standard_normal((144, 3), np.float32),
    )


def samples(reader: CalibrationReader) -> NDArray[np.float32]:
    return np.concatenate([feed["input"] for feed in reader])


def test_a_split_is_read_once_through_and_again_after_rewinding(
    split: Split, model: ir.Model
) -> None:
    reader = CalibrationReader.from_split(split, DIGITS, model, samples=70)
    sizes = []
    while (feed := reader.get_next()) is not None:
        sizes.append(len(feed["input"]))
    assert sizes == [32, 32, 6]
    assert len(reader) == 3
    assert reader.get_next() is None
    reader.rewind()
    first = reader.get_next()
    assert first is not None
    np.testing.assert_array_equal(first["input"], samples(reader)[:32])
    assert reader.settings == {"data": "digits", "part": "train", "samples": 70, "seed": 0}


def test_the_seed_draws_the_samples(split: Split, model: ir.Model) -> None:
    def draw(seed: int) -> NDArray[np.float32]:
        reader = CalibrationReader.from_split(split, DIGITS, model, samples=40, seed=seed)
        return samples(reader)

    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_each_class_has_its_share_without_replacement() -> None:
    labels = np.repeat(np.arange(3), [600, 300, 100])
    chosen = stratified_sample(labels, 100, seed=3)
    assert len(set(chosen.tolist())) == 100
    counts = np.bincount(labels[chosen], minlength=3)
    assert np.abs(counts - [60, 30, 10]).max() <= 1
    plain = labels[:100]
    assert np.abs(np.bincount(plain, minlength=3) - [60, 30, 10]).max() > 1


def test_few_images_are_all_taken_unless_a_number_is_asked_for(
    split: Split, model: ir.Model
) -> None:
    few = split.take(np.arange(20))
    assert CalibrationReader.from_split(few, DIGITS, model).settings["samples"] == 20
    for count in (0, 21):
        with pytest.raises(DataError, match=f"{count} calibration samples.* 1 to 20"):
            CalibrationReader.from_split(few, DIGITS, model, samples=count)


def test_a_fixed_batch_axis_gets_batches_of_its_size(split: Split, model: ir.Model) -> None:
    model.graph.inputs[0].shape = ir.Shape([4, 1, 8, 8])
    reader = CalibrationReader.from_split(split, DIGITS, model, samples=10)
    assert [len(feed["input"]) for feed in reader] == [4, 4]
    assert reader.settings["samples"] == 8
    with pytest.raises(DataError, match="batch size is 4"):
        CalibrationReader.from_split(split, DIGITS, model, samples=3)


def test_images_of_another_size_are_refused(model: ir.Model) -> None:
    images = ArrayImages(np.zeros((5, 9, 9, 1), np.uint8))
    wrong = Split("mine", "train", images, np.zeros(5, np.int64), ("a",))
    reader = CalibrationReader.from_split(wrong, DIGITS, model)
    with pytest.raises(DataError, match=r"\[9, 9, 1\]"):
        list(reader)


def random_feeds(count: int = 4, size: int = 8) -> Iterator[dict[str, NDArray[Any]]]:
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield {"input": generator.standard_normal((size, 1, 8, 8)).astype(np.float32)}


def test_any_iterable_of_feeds_can_be_read_twice() -> None:
    reader = CalibrationReader.from_feeds(random_feeds())
    assert len(reader) == 4
    np.testing.assert_array_equal(samples(reader), samples(reader))
    assert reader.settings == {"data": "custom", "samples": 32}


class Peer:
    """A reader as one writes it for onnxruntime, which can be read once."""

    def __init__(self, count: int) -> None:
        self._feeds = random_feeds(count)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)


@pytest.mark.parametrize("kind", ["list", "generator", "iterable", "onnxruntime"])
def test_whatever_gives_batches_can_be_read(kind: str, model: ir.Model) -> None:
    feeds: object = {
        "list": lambda: list(random_feeds()),
        "generator": random_feeds,
        "iterable": lambda: dict(enumerate(random_feeds())).values(),
        "onnxruntime": lambda: Peer(4),
    }[kind]()
    reader = CalibrationReader.from_feeds(feeds)
    expected = calibrator("mse").ranges(
        model, CalibrationReader.from_feeds(list(random_feeds())), ("Conv",)
    )
    for _ in range(2):
        assert calibrator("mse").ranges(model, reader, ("Conv",)) == expected
    assert reader.settings["samples"] == 32
    assert len(reader.digests()) == 32


def test_quantization_reads_any_of_them(model: ir.Model) -> None:
    expected, *others = (
        to_proto(quantize(model, "int8", reader=reader).model)
        for reader in (list(random_feeds()), random_feeds(), Peer(4))
    )
    assert others == [expected, expected]
    assert to_proto(quantize(model, "int8", reader=Peer(2)).model) != expected


@pytest.mark.parametrize("kind", ["generator", "onnxruntime"])
def test_what_is_read_once_is_kept_on_disk_and_not_in_memory(kind: str) -> None:
    count, size = 60, 256
    one_batch = size * 8 * 8 * 4
    feeds: object = random_feeds(count, size)
    if kind == "onnxruntime":
        feeds = Peer(0)
        feeds._feeds = random_feeds(count, size)
    tracemalloc.start()
    reader = CalibrationReader.from_feeds(feeds)
    assert sum(len(feed["input"]) for feed in reader) == count * size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * one_batch < count * one_batch


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        (3, "calibration data is int: give batches"),
        (iter([np.zeros(3)]), "batch of calibration data is ndarray"),
        ([np.zeros((4, 3, 8, 8))], "batch of calibration data is ndarray"),
        (iter([{"input": [1, 2]}]), "with arrays of numpy"),
        (iter([{"input": np.array([None])}]), "with arrays of numpy"),
    ],
)
def test_what_gives_no_batches_is_refused(feeds: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CalibrationReader.from_feeds(feeds)


def test_doubtful_samples_are_told(split: Split, model: ir.Model) -> None:
    def warnings(split: Split, samples: int) -> tuple[str, ...]:
        return CalibrationReader.from_split(split, DIGITS, model, samples=samples).warnings()

    assert warnings(split, 200) == ()
    assert warnings(split, 99) == ("99 calibration samples are few; give 100 or more --samples",)
    without = split.take(np.flatnonzero(~np.isin(split.labels, [3, 8])))
    (missing,) = warnings(without, 200)
    assert missing.startswith("no calibration sample is of class '3' and 1 more")
    rare = np.concatenate(
        [np.flatnonzero(split.labels != 5), np.flatnonzero(split.labels == 5)[:9]]
    )
    (few,) = warnings(split.take(rare), len(rare))
    assert few.startswith("fewer than 10 calibration samples are of class '5';")


def test_samples_are_known_by_their_place_in_the_split(split: Split, model: ir.Model) -> None:
    reader = CalibrationReader.from_split(split, DIGITS, model, samples=50)
    assert reader.positions is not None
    assert reader.sample_name(7) == f"image {reader.positions[7]} of digits's train part"
    pixels = split.images.read(reader.positions)
    assert reader.digests().tolist() == [digest(image) for image in pixels]
    counts = reader.class_counts()
    assert counts is not None
    assert list(counts.values()) == np.bincount(split.labels[reader.positions]).tolist()


def broken(kind: str) -> list[dict[str, NDArray[Any]]]:
    feeds = [copy.deepcopy(feed) for feed in random_feeds()]
    one = feeds[0]["input"][:1]
    match kind:
        case "none":
            return []
        case "empty":
            feeds[1]["input"] = feeds[1]["input"][:0]
        case "identical":
            return [{"input": np.repeat(one, 8, axis=0)} for _ in range(2)]
        case "zeros":
            return [{"input": np.zeros((8, 1, 8, 8), np.float32)} for _ in range(3)]
        case "flat":
            return [{"input": np.full((1, 1, 8, 8), 0.5, np.float32)}]
        case "nan":
            feeds[2]["input"][1, 0, 3, 3] = np.nan
        case "infinite":
            feeds[3]["input"][0, 0, 0, 0] = np.inf
        case "sizes":
            feeds[1]["input"] = feeds[1]["input"][:, :, 1:]
    return feeds


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("none", "at least one sample"),
        ("empty", "batch without samples"),
        ("identical", "constant: all 16 samples"),
        ("zeros", "constant: all 24 samples"),
        ("flat", "constant: all 1 samples"),
        ("nan", "not finite"),
        ("infinite", "not finite"),
        ("sizes", r"samples of \[1, 8, 8\] and of \[1, 7, 8\]"),
    ],
)
def test_unusable_data_is_refused_in_one_line(kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(CalibrationReader.from_feeds(broken(kind)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", CALIBRATORS)
def test_every_method_finds_ranges_within_what_was_computed(model: ir.Model, method: str) -> None:
    reader = CalibrationReader.from_feeds(random_feeds())
    progress: list[tuple[int, int]] = []
    operators = ("Conv", "Relu", "Flatten", "Gemm")
    ranges = calibrator(method).ranges(
        model, reader, operators, lambda done, total: progress.append((done, total))
    )
    assert set(ranges) == {"input", "a", "r", "f", "logits"}
    everything = samples(reader)
    low, high = ranges["input"]
    assert everything.min() <= low < -1 < 1 < high <= everything.max()
    assert ranges["r"][0] == 0
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_minmax_is_exact_and_percentile_leaves_outliers_out(model: ir.Model) -> None:
    feeds = list(random_feeds(64, 16))
    feeds[1]["input"][0, 0, 0, 0] = 100.0
    reader = CalibrationReader.from_feeds(feeds)
    exact = calibrator("minmax").ranges(model, reader, ("Conv",))
    assert exact["input"] == (samples(reader).min(), 100.0)
    cut = calibrator("percentile").ranges(model, reader, ("Conv",))
    assert cut["input"][1] < 10


def test_data_that_does_not_fit_the_model_is_refused(model: ir.Model) -> None:
    feeds = [feed["input"] for feed in random_feeds()]
    for wrong, message in (
        ([{"image": array} for array in feeds], r"inputs \['image'\], the model takes \['input'\]"),
        ([{"input": array[:, :, 1:]} for array in feeds], r"shape \[8, 1, 7, 8\]"),
        ([{"input": array.astype(np.float64)} for array in feeds], "float64"),
    ):
        reader = CalibrationReader.from_feeds(wrong)
        with pytest.raises(DataError, match=message):
            calibrator("minmax").ranges(model, reader, ("Conv",))


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="'median'; choose one of minmax, moving-average,"):
        calibrator("median")


@pytest.mark.parametrize("kind", [ir.DataType.INT64, ir.DataType.INT8, ir.DataType.BOOL])
def test_a_model_that_takes_no_images_is_refused(
    split: Split, model: ir.Model, kind: ir.DataType
) -> None:
    model.graph.inputs[0].type = ir.TensorType(kind)
    with pytest.raises(ModelFileError, match=f"input is {kind.name.lower()}; give one .* images"):
        CalibrationReader.from_split(split, DIGITS, model)


def test_a_model_with_two_inputs_is_refused(
    split: Split, text_graph: Callable[..., ir.Model]
) -> None:
    two = text_graph("g (float[N] a, float[N] b) => (float[N] c) { c = Add(a, b) }")
    with pytest.raises(ModelFileError, match=r"2 inputs \(a, b\)"):
        CalibrationReader.from_split(split, DIGITS, two)


def test_onnxruntimes_own_quantizer_reads_it(split: Split, model: ir.Model, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    from edgekit.export.quiet import quiet

    reader = CalibrationReader.from_split(split, DIGITS, model, samples=50)
    assert isinstance(reader, CalibrationDataReader)
    with quiet():
        quantize_static(to_proto(model), tmp_path / "q.onnx", reader)
    operators = {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
    assert "QuantizeLinear" in operators


def test_a_folder_is_recorded_by_its_name_alone(tmp_path: Path, model: ir.Model) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "secret" / "pets" / name).mkdir(parents=True)
        for shade in range(3):
            image = Image.new("L", (8, 8), 50 * shade)
            image.save(tmp_path / "secret" / "pets" / name / f"{shade}.png")
    split = load_split(str(tmp_path / "secret" / "pets"), "train")
    reader = CalibrationReader.from_split(split, DIGITS, model)
    assert reader.settings["data"] == "pets"
