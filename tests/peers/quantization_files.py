"""One float model quantized by each tool, from the same images, for quantization_table.py to time.

    python tests/peers/quantization_files.py FOLDER MODEL ... [--data DATA] [--samples 256]

MODEL is a float32 .onnx file that carries its preprocessing, for images of DATA, or one of the
names in `NETWORKS`: random weights, random images, and for labels what the float model says, so
that accuracy is agreement. Each model gets a sub-folder with a file by each tool and results.json.

| file | how |
|---|---|
| float | as exported |
| stock-qdq, stock-qoperator | onnxruntime: quant_pre_process, quantize_static, per channel, U8S8 |
| nncf-onnx | nncf.quantize of the ONNX model |
| nncf-openvino | nncf.quantize of the OpenVINO model (saved as its .xml and .bin) |
| edgekit | edgekit optimize, edgekit quantize |
| edgekit-openvino | edgekit optimize --batch-norm keep, edgekit quantize --kernels openvino |

NNCF and OpenVINO would report their use to an outside service through the package
openvino_telemetry; it is hidden from both here before they are imported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.engines import find_engine
from edgekit.commands.calibrating import Calibration
from edgekit.commands.images import DataSource
from edgekit.commands.optimize import optimize_file
from edgekit.commands.quantize import quantize_file
from edgekit.export.calibration import CalibrationReader
from edgekit.export.graph import load_graph, model_preprocessing, save_graph
from edgekit.export.passes.turn_batch_norm_into_threshold import Policy
from edgekit.export.quiet import quiet
from edgekit.export.static_options import Kernels
from edgekit.runtime.data.load import load_split
from edgekit.runtime.data.source import Split
from edgekit.runtime.files import write_text
from edgekit.runtime.preprocessing import Preprocessing

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
os.environ["NNCF_CI"] = "1"

SEED = 0
BATCH = 32
RANDOM_IMAGES = 64


@dataclass(frozen=True)
class Subject:
    """A float model and the images that all tools see."""

    model: Path
    data: str
    samples: int

    def preprocessing(self) -> Preprocessing:
        """The model's own."""
        found = model_preprocessing(load_graph(self.model))
        if found is None:
            raise SystemExit(f"{self.model}: carries no preprocessing; export it with edgekit")
        return found

    def reader(self) -> CalibrationReader:
        """The calibration images."""
        preprocessing, model = self.preprocessing(), load_graph(self.model)
        split = load_split(self.data, "train", image_shape=preprocessing.image_shape)
        samples = min(self.samples, len(split))
        return CalibrationReader.from_split(split, preprocessing, model, samples=samples, seed=SEED)


def stock(form: str) -> Callable[[Subject, Path], None]:
    """What onnxruntime's documentation tells its users to do."""

    def convert(subject: Subject, output: Path) -> None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory() as folder, quiet():
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(subject.model), str(prepared))
            quantize_static(
                str(prepared),
                str(output),
                subject.reader(),
                quant_format=QuantFormat[form],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )

    return convert


def nncf_onnx(subject: Subject, output: Path) -> None:
    """NNCF on the ONNX file."""
    import nncf
    import onnx

    feeds = list(subject.reader())
    with quiet():
        quantized = nncf.quantize(
            onnx.load(subject.model), nncf.Dataset(feeds), subset_size=len(feeds)
        )
    onnx.save(quantized, output)


def nncf_openvino(subject: Subject, output: Path) -> None:
    """NNCF on the model as OpenVINO reads it."""
    import nncf
    import openvino

    feeds = [next(iter(feed.values())) for feed in subject.reader()]
    with quiet():
        model = openvino.Core().read_model(subject.model)
        quantized = nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds))
        openvino.save_model(quantized, output)


def edgekit(
    kernels: Kernels = "fast", batch_norm: Policy = "auto"
) -> Callable[[Subject, Path], None]:
    """edgekit, with nothing set but the images; and as it is told to for OpenVINO."""

    def convert(subject: Subject, output: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            optimize_file(subject.model, optimized, batch_norm=batch_norm)
            samples = sum(len(next(iter(feed.values()))) for feed in subject.reader())
            calibration = Calibration(DataSource(subject.data), samples=samples, seed=SEED)
            quantize_file(optimized, output, calibration=calibration, kernels=kernels)

    return convert


TOOLS: dict[str, tuple[str, Callable[[Subject, Path], None]]] = {
    "stock-qdq": ("stock-qdq.onnx", stock("QDQ")),
    "stock-qoperator": ("stock-qoperator.onnx", stock("QOperator")),
    "nncf-onnx": ("nncf-onnx.onnx", nncf_onnx),
    "nncf-openvino": ("nncf-openvino.xml", nncf_openvino),
    "edgekit": ("edgekit.onnx", edgekit()),
    "edgekit-openvino": ("edgekit-openvino.onnx", edgekit("openvino", "keep")),
}


def top1(path: Path, preprocessing: Preprocessing, split: Split) -> float:
    """Share of images that a file classifies as labelled, in the engine it is made for."""
    engine = find_engine("openvino" if path.suffix == ".xml" else "onnxruntime")
    model = engine.open(path, 1)
    correct = 0
    for start in range(0, len(split), BATCH):
        rows = np.arange(start, min(start + BATCH, len(split)))
        logits = model.classify(preprocessing(split.images.read(rows)))
        correct += int((logits.argmax(1) == split.labels[rows]).sum())
    return correct / len(split)


def file_bytes(path: Path) -> int:
    """Size of a model, with its weights where they lie beside it."""
    beside = path.with_suffix(".bin")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def make(subject: Subject, folder: Path, limit: int) -> None:
    """Quantize by each tool, measure accuracy, and note all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocessing = subject.preprocessing()
    split = load_split(subject.data, "test", image_shape=preprocessing.image_shape)
    split = split.take(np.arange(min(limit, len(split))))
    results: list[dict[str, Any]] = []
    for tool, (name, convert) in {"float": (subject.model.name, None), **TOOLS}.items():
        path = subject.model if convert is None else folder / name
        entry: dict[str, Any] = {"tool": tool, "path": str(path.absolute())}
        try:
            if convert is not None:
                path.unlink(missing_ok=True)
                convert(subject, path)
            entry |= {"top1": top1(path, preprocessing, split), "bytes": file_bytes(path)}
        except Exception as error:  # a peer may fail on a model; the table says so
            entry["error"] = " ".join(str(error).split())[:200] or type(error).__name__
        results.append(entry)
        print(folder.name, entry, flush=True)
    note = {"data": subject.data, "images": len(split), "results": results}
    write_text(folder / "results.json", json.dumps(note, indent=2))


def random_network(name: str, folder: Path) -> Subject:
    """A network of `NETWORKS`, exported, with images whose labels it gives itself."""
    import torch

    from edgekit.export.to_onnx import to_onnx

    build, size, mean = NETWORKS[name]
    generator = np.random.default_rng(SEED)
    images = {part: smooth_images(generator, RANDOM_IMAGES, size) for part in ("train", "test")}
    torch.manual_seed(SEED)
    module = build()
    preprocessing = Preprocessing(size, size, (mean,) * 3, (0.25,) * 3)
    with torch.no_grad():
        settle(module, torch.from_numpy(preprocessing(images["train"])))
    path = folder / "float.onnx"
    save_graph(to_onnx(module, preprocessing), path)
    session = find_engine("onnxruntime").open(path, 1)
    labels = {p: session.classify(preprocessing(x)).argmax(1) for p, x in images.items()}
    data = folder / "images.npz"
    np.savez(
        data,
        **{f"x_{part}": x for part, x in images.items()},
        **{f"y_{part}": y.astype(np.int64) for part, y in labels.items()},
    )
    return Subject(path, str(data), RANDOM_IMAGES)


def settle(module: Any, batch: Any) -> None:
    """Varied batch norms with the statistics of a batch, as a trained network would have them."""
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = None
    module.train()(batch)
    module.eval()


def smooth_images(generator: np.random.Generator, count: int, size: int) -> NDArray[np.uint8]:
    """Random colour fields: uint8 [count, size, size, 3]."""
    coarse = generator.random((count, 8, 8, 3)) * generator.random((count, 1, 1, 3))
    fine = coarse.repeat(-(-size // 8), 1).repeat(-(-size // 8), 2)[:, :size, :size]
    noisy = fine * 235 + generator.normal(0, 8, fine.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def densenet(order: str, **settings: Any) -> Callable[[], Any]:
    """A DenseNet of edgekit's, for 10 classes."""

    def build() -> Any:
        from edgekit.train.models.densenet import DenseNet, DenseNetConfig

        return DenseNet(DenseNetConfig(order=order, **settings), 3, 10)

    return build


def vision(name: str) -> Callable[[], Any]:
    """A network of torchvision's."""

    def build() -> Any:
        from edgekit.train.vision import torchvision

        return torchvision.models.get_model(name, weights=None)

    return build


# Name -> what builds it, the images' size and mean.
NETWORKS: dict[str, tuple[Callable[[], Any], int, float]] = {
    "densenet-pre": (densenet("pre", blocks=(8, 8, 8), growth=8, bottleneck=4), 32, 0.25),
    "densenet-post": (
        densenet(
            "post",
            blocks=(6, 7, 8),
            growth=(12, 12, 15),
            groups=(2, 3, 3),
            bottleneck=3,
            compression=0.5,
            stem_width=24,
            stem_kernel=3,
            stem_stride=2,
        ),
        32,
        0.25,
    ),
    "densenet121": (vision("densenet121"), 224, 0.25),
    "resnet18": (vision("resnet18"), 224, 0.25),
    "mobilenet_v3_small": (vision("mobilenet_v3_small"), 224, 0.25),
}


def main(arguments: Iterable[str] | None = None) -> None:
    """Make the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--limit", type=int, default=10_000)
    given = parser.parse_args(None if arguments is None else list(arguments))
    for name in given.models:
        folder = given.folder / Path(name).stem
        folder.mkdir(parents=True, exist_ok=True)
        subject = (
            random_network(name, folder)
            if name in NETWORKS
            else Subject(Path(name), given.data, given.samples)
        )
        make(subject, folder, given.limit)


if __name__ == "__main__":
    main()
