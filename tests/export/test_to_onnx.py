from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.export.graph import to_proto
from edgekit.export.opset import MIN_OPSET, convert_opset, max_opset
from edgekit.export.to_onnx import to_onnx
from edgekit.runtime.errors import InputError, ModelFileError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.runtime.session import open_session, run_batch
from edgekit.train.models.table import build_model
from edgekit.train.vision import torchvision

DIGITS = Preprocessing(8, 8, (0.3,), (0.36,), tuple("0123456789"))


class Small(nn.Module):
    """Layers, functional calls, a shared module and a mean: one of each naming rule."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.norm(self.stem(images)))
        second = self.blocks(self.blocks(first))
        pooled = torch.cat([self.pool(first), self.pool(second)], 1)
        logits: torch.Tensor = self.classifier(torch.flatten(pooled, 1))
        return logits


def images(preprocessing: Preprocessing, count: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, *preprocessing.input_shape), np.float32)


def settle(module: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """Give every batch normalization real statistics, so that logits are of a sane size."""
    torch.manual_seed(0)
    batch = torch.from_numpy(images(preprocessing, 16))
    with torch.no_grad():
        for _ in range(10):
            module.train()(batch)
    return module.eval()


def torch_logits(module: nn.Module, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = module(torch.from_numpy(batch)).numpy()
    return logits


def relative_error(model: ir.Model, module: nn.Module, preprocessing: Preprocessing) -> float:
    """Worst of batch sizes 1, 2 and 5."""
    session = open_session(to_proto(model), optimize=False)
    worst = 0.0
    for count in (1, 2, 5):
        batch = images(preprocessing, count)
        expected = torch_logits(module, batch)
        actual = run_batch(session, batch)
        assert actual.shape == expected.shape
        worst = max(worst, float(np.abs(actual - expected).max() / np.abs(expected).max()))
    return worst


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return settle(Small(), DIGITS)


@pytest.fixture(scope="module")
def exported(small: nn.Module) -> ir.Model:
    return to_onnx(small, DIGITS, source="runs/small/last.safetensors")


@pytest.mark.parametrize("opset", sorted({17, 18, 20, 21, max_opset()}))
def test_the_graph_has_the_asked_opset_and_computes_the_same_at_any_batch_size(
    small: nn.Module, opset: int
) -> None:
    model = to_onnx(small, DIGITS, opset=opset)
    assert model.opset_imports == {"": opset}
    onnx.checker.check_model(to_proto(model), full_check=True)
    assert relative_error(model, small, DIGITS) < 1e-5


@pytest.mark.parametrize("opset", [MIN_OPSET - 1, max_opset() + 1])
def test_an_opset_out_of_range_is_refused_with_the_range(small: nn.Module, opset: int) -> None:
    with pytest.raises(InputError, match=rf"opset {opset}.* {MIN_OPSET} to {max_opset()}"):
        to_onnx(small, DIGITS, opset=opset)


def test_input_output_and_batch_axis_have_fixed_names(exported: ir.Model) -> None:
    (entry,), (result,) = exported.graph.inputs, exported.graph.outputs
    assert (entry.name, str(entry.shape)) == ("input", "[batch,1,8,8]")
    assert (result.name, str(result.shape)) == ("logits", "[batch,10]")


def test_nodes_are_called_after_modules_and_functional_calls_after_their_operator(
    exported: ir.Model,
) -> None:
    assert [node.name for node in exported.graph] == [
        "stem",
        "norm",
        "relu",
        "blocks.0",
        "blocks.1",
        "blocks.0_2",
        "blocks.1_2",
        "pool",
        "pool_2",
        "concat",
        "reshape",
        "classifier",
    ]
    assert all(n.outputs[0].name == n.name for n in exported.graph if n.name != "classifier")


def test_initializers_keep_their_torch_names_and_constants_are_called_after_their_use(
    exported: ir.Model, small: nn.Module
) -> None:
    parameters = {n for n in small.state_dict() if not n.endswith("num_batches_tracked")}
    assert set(exported.graph.initializers) == parameters | {"reshape/shape"}


def test_the_exporters_roundabout_ways_are_gone(exported: ir.Model) -> None:
    operators = {node.op_type for node in exported.graph}
    assert operators == {
        "Conv",
        "BatchNormalization",
        "Relu",
        "GlobalAveragePool",
        "Concat",
        "Reshape",
        "Gemm",
    }
    stem = next(node for node in exported.graph if node.name == "stem")
    assert len(stem.inputs) == 2  # no bias of zeros


def test_no_stack_trace_and_no_path_of_this_machine_is_in_the_file(exported: ir.Model) -> None:
    content = to_proto(exported).SerializeToString()
    for trace in (b"site-packages", b"stack_trace", b"pkg.torch", b".py", __file__.encode()):
        assert trace not in content


def test_metadata_carries_preprocessing_version_and_source(exported: ir.Model) -> None:
    assert Preprocessing.from_metadata(exported.metadata_props) == DIGITS
    assert exported.metadata_props["edgekit.version"] == exported.producer_version
    assert exported.metadata_props["edgekit.source"] == "runs/small/last.safetensors"


def test_the_mode_of_every_module_is_as_before() -> None:
    module = Small().train()
    module.norm.eval()
    to_onnx(module, DIGITS)
    assert module.training
    assert module.stem.training
    assert not module.norm.training


def test_another_number_of_classes_than_names_is_refused(small: nn.Module) -> None:
    three = Preprocessing(8, 8, (0.3,), (0.36,), ("a", "b", "c"))
    with pytest.raises(InputError, match="10 classes, but 3 class names"):
        to_onnx(small, three)


def test_a_module_that_torch_cannot_trace_is_refused_in_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Branches(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1) if images.sum() > 0 else -images.flatten(1)

    with pytest.raises(InputError, match="torch cannot export Branches") as caught:
        to_onnx(Branches(), DIGITS)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_module_that_fixes_the_batch_size_is_refused() -> None:
    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.reshape(2, 64)

    with pytest.raises(InputError, match="2 rows whatever the batch size"):
        to_onnx(Fixed(), DIGITS)


class Returning(nn.Module):
    """A classifier that returns its logits in some other way."""

    def __init__(self, form: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.form = form

    def forward(self, images: torch.Tensor) -> object:
        return self.form(self.linear(torch.flatten(images, 1)))


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (lambda logits: {"logits": logits}, "a dict"),
        (lambda logits: [logits], "a list"),
        (lambda logits: (logits, None), "a tuple"),
        (lambda logits: logits.half(), r"float16 \[2, 10\]"),
        (lambda logits: logits.argmax(1, keepdim=True).expand(-1, 10), r"int64 \[2, 10\]"),
    ],
    ids=["dict", "list", "tuple", "half", "integer"],
)
def test_anything_but_one_float32_tensor_is_refused(
    form: Callable[[torch.Tensor], object], found: str
) -> None:
    with pytest.raises(InputError, match=f"Returning returns {found}; a classifier returns one"):
        to_onnx(Returning(form), DIGITS)


def test_what_an_opset_cannot_express_is_an_error_not_another_opset(
    text_graph: object,
) -> None:
    model = text_graph("g (float[N] x) => (float[N] y) { y = Gelu(x) }", opset=20)  # type: ignore[operator]
    with pytest.raises(ModelFileError, match="opset 17"):
        convert_opset(model, 17)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("densenet", {"order": "pre", "blocks": (2, 3), "groups": (1, 3)}),
        ("densenet", {"order": "post", "blocks": (2, 3), "groups": (1, 3)}),
        ("resnet", {}),
        (
            "efficientnet",
            {
                "widths": (16, 24),
                "depths": 1,
                "expand": (1, 4),
                "kernels": (3, 5),
                "strides": (1, 2),
            },
        ),
    ],
)
def test_own_models_compute_the_same(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    module = settle(build_model(name, options, in_channels=1, num_classes=10), DIGITS)
    model = to_onnx(module, DIGITS, opset=17)
    assert relative_error(model, module, DIGITS) < 1e-4


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 32),
        ("mobilenet_v3_small", 32),
        pytest.param("densenet121", 32, marks=pytest.mark.slow),
    ],
)
def test_torchvisions_models_compute_the_same(name: str, size: int) -> None:
    preprocessing = Preprocessing(size, size, (0.5,) * 3, (0.25,) * 3)
    torch.manual_seed(0)
    module = settle(getattr(torchvision.models, name)(num_classes=10), preprocessing)
    model = to_onnx(module, preprocessing)
    assert model.graph.name == type(module).__name__
    assert relative_error(model, module, preprocessing) < 1e-4
