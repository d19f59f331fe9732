"""How fast int8 files run in onnxruntime: edgekit's beside the stock quantizer's, as Markdown.

    python tests/peers/int8_speed.py [NET ...] [--iterations 100]

NET is one of `OURS`, `ACTIVATIONS` or torchvision's, with random weights, or a trained network that
comes with edgekit. All files of one come from one float32 model and are measured in turns in one
process, on one thread: float32 after edgekit's passes; stock is onnxruntime's
quant_pre_process and quantize_static (QDQ, per-channel, U8S8); keep is edgekit without the shapes
of fast kernels. Times are medians in ms, the factors say how many times faster edgekit is.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

from edgekit.bench.latency import measure, summarize
from edgekit.export.graph import from_proto, save_graph, to_proto
from edgekit.export.optimize import optimize
from edgekit.export.quantize import quantize
from edgekit.export.static_options import StaticOptions
from edgekit.export.to_onnx import to_onnx
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session
from edgekit.train.checkpoint import load_checkpoint
from edgekit.train.models.table import build_model
from edgekit.train.recipe import load_recipe
from edgekit.train.study import load_study
from edgekit.train.trained import find_checkpoint, shipped_checkpoints
from edgekit.train.vision import torchvision

OURS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "densenet-pre": (
        "densenet",
        {"order": "pre", "blocks": [8, 8, 8], "growth": 8, "stem_width": 16},
    ),
    "densenet-cifar10-grouped": (
        "densenet",
        load_recipe("densenet-cifar10-grouped").model_options,
    ),
    "resnet-8": ("resnet", {"widths": [16, 32, 64], "stem_width": 16}),  # MLPerf Tiny's
}
# What the study ablation-cifar10 compares in its group "activation".
ACTIVATIONS: dict[str, tuple[str, Mapping[str, Any]]] = {
    f"densenet-{variant.name}": ("densenet", training.recipe.model_options)
    for training in load_study("ablation-cifar10").trainings
    for variant in training.variants
    if variant.group == "activation"
}
TORCHVISION = ("resnet18", "mobilenet_v3_small", "densenet121")
BATCHES = (1, 32)


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Random images for the stock quantizer."""

    def __init__(self, feeds: list[dict[str, NDArray[np.float32]]]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.float32]]] = iter(feeds)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next one."""
        return next(self._feeds, None)


def network(name: str) -> tuple[ir.Model, int]:
    """A trained network that comes with edgekit, or one of random weights; and its images' size.

    The latter's normalizations are trained a little.
    """
    if name in shipped_checkpoints():
        checkpoint = load_checkpoint(find_checkpoint(Path(name)))
        return to_onnx(checkpoint.build(), checkpoint.preprocessing), checkpoint.preprocessing.width
    torch.manual_seed(0)
    built = {**OURS, **ACTIVATIONS}
    if name in built:
        size = 32
        architecture, options = built[name]
        module = build_model(architecture, options, in_channels=3, num_classes=10)
    else:
        size = 224
        module = torchvision.models.get_model(name, weights=None)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(5):
            module.train()(torch.randn(8, 3, size, size, generator=generator))
    return to_onnx(module, Preprocessing(size, size, (0.5,) * 3, (0.25,) * 3)), size


def files(name: str, folder: Path) -> tuple[dict[str, Path], int]:
    """The files to measure, and the size of their images."""
    model, size = network(name)
    generator = np.random.default_rng(1)
    feeds = [{"input": generator.standard_normal((4, 3, size, size), np.float32)} for _ in "ab"]
    paths = {label: folder / f"{label}.onnx" for label in ("float32", "stock", "keep", "edgekit")}
    raw, prepared = folder / "raw.onnx", folder / "prepared.onnx"
    save_graph(model, raw)
    quant_pre_process(raw, prepared)
    quantize_static(
        prepared,
        paths["stock"],
        Feeds(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    best = from_proto(to_proto(model))
    optimize(best, verify=False)
    save_graph(best, paths["float32"])
    for label, kernels in (("keep", "keep"), ("edgekit", "fast")):
        options = StaticOptions(kernels=kernels)  # type: ignore[arg-type]
        save_graph(quantize(best, "int8", reader=feeds, static=options).model, paths[label])
    return paths, size


def row(name: str, paths: dict[str, Path], size: int, batch: int, iterations: int) -> str:
    """One line of the table."""
    images = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
    sessions = [open_session(path) for path in paths.values()]
    runs = [lambda s=s: s.run(None, {"input": images}) for s in sessions]
    done = measure(runs, warmup=5, iterations=iterations)
    times = [summarize(m.seconds, batch).p50_ms for m in done]
    own = times[-1]
    bytes_ = ", ".join(f"{path.stat().st_size / 1000:,.0f}" for path in paths.values())
    cells = [name, str(batch), *(f"{time:.3f}" for time in times)]
    return "| " + " | ".join([*cells, f"{times[0] / own:.2f}", f"{times[1] / own:.2f}", bytes_])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=[*OURS, *TORCHVISION])
    parser.add_argument("--iterations", type=int, default=100)
    arguments = parser.parse_args()
    ort.set_default_logger_severity(3)
    print(f"onnxruntime {ort.__version__}, one thread")
    heads = "network, batch, float32, stock int8, keep, edgekit int8, over float32, over stock"
    print("| " + " | ".join([*heads.split(", "), "kB of each"]) + " |")
    print("|---" * 9 + "|")
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            paths, size = files(name, Path(folder))
            for batch in BATCHES:
                cost = batch if size == 32 else 20 * batch
                iterations = max(5, min(arguments.iterations, arguments.iterations * 20 // cost))
                print(row(name, paths, size, batch, iterations) + " |", flush=True)


if __name__ == "__main__":
    main()
