from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.runtime.errors import RecipeError
from edgekit.train.models.densenet import DenseNet, DenseNetConfig
from edgekit.train.models.layers import HalvePool
from edgekit.train.models.table import MODELS, build_model
from edgekit.train.vision import torchvision

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet-pre": (
        "densenet",
        {"blocks": [2, 2, 2, 2], "growth": [4, 6, 6, 6], "groups": [2, 3, 3, 1], "stem_stride": 2},
    ),
    "densenet-post": (
        "densenet",
        {"blocks": [2, 2], "growth": 6, "groups": 2, "order": "post", "dropout": 0.1},
    ),
    "densenet-hardswish": ("densenet", {"blocks": [2, 2], "growth": 6, "activation": "hardswish"}),
    "densenet-plain": (
        "densenet",
        {"blocks": [2, 2], "growth": 6, "bottleneck": 0, "groups": [2, 3], "stem_width": 8},
    ),
    "densenet-pool": ("densenet", {"blocks": [1, 1, 1, 1], "stem_kernel": 7, "stem_pool": True}),
    "resnet": ("resnet", {"widths": [8, 16], "blocks": [1, 2], "stem_width": 8, "groups": [1, 2]}),
    "efficientnet": ("efficientnet", {"widths": [8, 16], "depths": 2, "expand": [1, 2],
                                      "kernels": 3, "strides": [1, 2], "head_width": 32,
                                      "stochastic_depth": 0.2}),
    "efficientnet-plain": ("efficientnet", {"squeeze_excite": False, "stem_stride": 2}),
    "vgg": ("vgg", {"stages": [[4, 8], [8], [8, 12], [8]], "dropout": 0.1}),
}  # fmt: skip


def _build(case: str, in_channels: int = 3, num_classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    name, options = SMALL[case]
    return build_model(name, options, in_channels=in_channels, num_classes=num_classes)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 17, 23), (1, 8, 64)])
@pytest.mark.parametrize("case", SMALL)
def test_every_model_takes_one_or_three_channels_and_any_size_from_8(
    case: str, shape: tuple[int, int, int]
) -> None:
    module = _build(case, in_channels=shape[0], num_classes=7)
    logits = module(torch.randn(3, *shape))
    logits.sum().backward()
    assert logits.shape == (3, 7)
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_map_of_one_pixel_is_not_pooled_away() -> None:
    pool = HalvePool()
    assert pool(torch.ones(1, 2, 1, 1)).shape == (1, 2, 1, 1)
    assert pool(torch.arange(4.0).view(1, 1, 1, 4)).flatten().tolist() == [0.5, 2.5]
    image = torch.arange(20.0).view(1, 1, 4, 5)
    assert torch.equal(pool(image), nn.functional.avg_pool2d(image, 2))


def _torchvision_name(name: str) -> str:
    """Where torchvision's densenet keeps what ours calls `name`."""
    name = name.replace("stem.conv", "features.conv0").replace("stem.norm", "features.norm0")
    name = name.replace("final.norm", "features.norm5")
    name = re.sub(
        r"blocks\.(\d+)\.layers\.(\d+)",
        lambda m: f"features.denseblock{int(m[1]) + 1}.denselayer{int(m[2]) + 1}",
        name,
    )
    return re.sub(r"transitions\.(\d+)", lambda m: f"features.transition{int(m[1]) + 1}", name)


def test_densenet_121_computes_what_torchvisions_does() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.densenet121(weights=None).eval()
    config = DenseNetConfig(
        blocks=(6, 12, 24, 16), growth=32, stem_width=64, stem_kernel=7, stem_stride=2,
        stem_pool=True,
    )  # fmt: skip
    ours = DenseNet(config, 3, 1000).eval()
    weights = theirs.state_dict()
    ours.load_state_dict({name: weights[_torchvision_name(name)] for name in ours.state_dict()})
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(images)
        assert torch.allclose(ours(images), expected, rtol=1e-5, atol=1e-5)
        ours.final.norm.bias.add_(0.01)  # type: ignore[operator, union-attr]
        assert not torch.allclose(ours(images), expected, rtol=1e-5, atol=1e-5)
    assert _count(ours) == _count(theirs) == 7_978_856


def test_densenet_parameters_match_a_count_by_hand() -> None:
    options = {"blocks": [1, 2], "growth": 6, "bottleneck": 2, "stem_width": 8, "groups": [2, 3]}
    stem = 8 * 1 * 9 + 2 * 8

    def layer(width: int, groups: int) -> int:
        return 2 * width + width * 12 + 2 * 12 + 6 * (12 // groups) * 9

    first = layer(8, 2)
    transition = 2 * 14 + 14 * 7
    second = layer(7, 3) + layer(13, 3)
    last = 2 * 19 + 19 * 10 + 10
    module = build_model("densenet", options, in_channels=1, num_classes=10)
    assert _count(module) == stem + first + transition + second + last


def test_post_order_puts_every_normalization_right_after_a_convolution() -> None:
    def followers(case: str) -> list[type[nn.Module]]:
        layers = [m for m in _build(case).modules() if not list(m.children())]
        return [
            type(before) for before, layer in pairwise(layers) if isinstance(layer, nn.BatchNorm2d)
        ]

    assert set(followers("densenet-post")) == {nn.Conv2d}
    assert set(followers("densenet-pre")) != {nn.Conv2d}


@pytest.mark.parametrize("order", ["pre", "post"])
def test_hardswish_takes_the_place_of_every_relu_of_a_densenet(order: str) -> None:
    options = {"blocks": [2, 2], "growth": 4, "order": order}
    plain, swish = (
        build_model("densenet", {**options, "activation": name}, in_channels=3, num_classes=4)
        for name in ("relu", "hardswish")
    )
    relus = [name for name, part in plain.named_modules() if isinstance(part, nn.ReLU)]
    swishes = [name for name, part in swish.named_modules() if isinstance(part, nn.Hardswish)]
    assert relus
    assert swishes == relus
    assert not any(isinstance(part, nn.ReLU) for part in swish.modules())


def test_names_tell_where_a_layer_stands() -> None:
    names = {name for name, _ in _build("densenet-pre").named_modules()}
    assert {
        "stem.conv",
        "blocks.0.layers.1.conv2",
        "transitions.0.conv",
        "final.norm",
        "classifier",
    } <= names


def test_transitions_without_bottleneck_round_to_the_groups_that_follow() -> None:
    config = DenseNetConfig(blocks=(1, 1), growth=6, bottleneck=0, groups=(1, 3), stem_width=8)
    assert config.widths() == [(8, 14), (6, 12)]
    assert DenseNetConfig(blocks=(1, 1), growth=6, groups=(1, 3), stem_width=8).widths() == [
        (8, 14),
        (7, 13),
    ]


def test_the_default_resnet_has_ten_convolutions_shortcuts_included() -> None:
    module = build_model("resnet", {}, in_channels=3, num_classes=10)
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 10
    assert sum(c.kernel_size == (1, 1) for c in convolutions) == 3


def test_efficientnet_is_made_of_torchvisions_blocks() -> None:
    blocks = [
        m for m in _build("efficientnet").modules()
        if isinstance(m, torchvision.models.efficientnet.MBConv)
    ]  # fmt: skip
    assert len(blocks) == 4
    assert blocks[0].stochastic_depth.p == 0
    assert blocks[-1].stochastic_depth.p == 0.2
    kinds = {type(m).__name__ for m in _build("efficientnet-plain").modules()}
    assert "SqueezeExcitation" not in kinds


def test_a_vgg_has_the_convolutions_that_its_stages_list_and_halves_the_map_between_them() -> None:
    module = _build("vgg")
    widths = [m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [4, 8, 8, 8, 12, 8]
    assert sum(isinstance(m, nn.MaxPool2d) for m in module.modules()) == 3


@pytest.mark.parametrize("case", ["densenet-pre", "densenet-post", "resnet", "efficientnet", "vgg"])
def test_compiles_without_a_graph_break_and_trains_in_channels_last_and_bf16(case: str) -> None:
    module = _build(case)
    images = torch.randn(4, 3, 16, 16)
    module.eval()
    with torch.no_grad():
        expected = module(images)
        compiled = torch.compile(module, backend="eager", fullgraph=True)(images)
        last = module.to(memory_format=torch.channels_last)(
            images.contiguous(memory_format=torch.channels_last)
        )
    assert torch.allclose(compiled, expected, atol=1e-5)
    assert torch.allclose(last, expected, atol=1e-5)
    module.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(module(images), torch.arange(4))
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("case", ["densenet-pre", "densenet-post", "resnet", "efficientnet", "vgg"])
def test_exports_with_a_dynamic_batch_axis(case: str) -> None:
    module = _build(case, in_channels=1).eval()
    program = torch.export.export(
        module, (torch.randn(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    images: Tensor = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(program.module()(images), module(images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("densnet", {}, "architecture 'densnet': unknown; did you mean densenet"),
        ("densenet", {"grwth": 1}, "model.grwth: unknown; did you mean growth"),
        ("densenet", {"blocks": 3}, "model.blocks: expected a list"),
        ("densenet", {"blocks": []}, "blocks .* between"),
        ("densenet", {"blocks": [2, 0]}, "blocks .* must be between 1 and"),
        ("densenet", {"growth": [4, 4]}, "growth .4, 4. has 2 values, but there are 3 stages"),
        ("densenet", {"growth": 13, "groups": 2}, "groups 2 does not divide growth in block 0, 13"),
        ("densenet", {"bottleneck": 0, "groups": 4, "stem_width": 18}, "divide stem_width, 18"),
        (
            "densenet",
            {"blocks": [1, 1], "bottleneck": 0, "groups": [1, 12], "compression": 0.1},
            "compression 0.1 leaves block 1 fewer channels than its 12 groups",
        ),
        ("densenet", {"compression": 0}, "compression 0.0 must be above 0"),
        ("densenet", {"compression": 1.5}, "compression 1.5 must be"),
        ("densenet", {"stem_kernel": 4}, "stem_kernel 4 must be odd"),
        ("densenet", {"order": "mid"}, "model.order: expected one of 'pre', 'post', got 'mid'"),
        ("densenet", {"activation": "gelu"}, "activation: expected one of 'relu', 'hardswish'"),
        (
            "densenet",
            {"positive_scales": True, "activation": "hardswish"},
            'positive_scales is for activation "relu"',
        ),
        ("densenet", {"dropout": 1.0}, "dropout 1.0 must be between"),
        ("resnet", {"groups": 3}, "groups 3 does not divide what stage 0 takes, 32"),
        ("resnet", {"blocks": [1, 1]}, "blocks .* there are 3 stages"),
        ("efficientnet", {"widths": [16, 20, 40, 80]}, "widths: 20 must be a multiple of 8"),
        ("efficientnet", {"strides": 3}, "strides 3 must be between 1 and 2"),
        ("efficientnet", {"kernels": 4}, "kernels 4 must be odd"),
        ("efficientnet", {"depths": [1]}, "depths .1. has 1 values"),
        ("vgg", {"stages": []}, "stages: their number 0 must be between 1 and 4"),
        ("vgg", {"stages": [[8], []]}, "stages .. must be between 1 and"),
        ("vgg", {"stages": [8]}, "model.stages.0.: expected a list"),
    ],
)
def test_bad_options_are_refused_with_the_key(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        build_model(name, options, in_channels=3, num_classes=10)


def test_channels_and_classes_that_no_classifier_has_are_refused() -> None:
    with pytest.raises(RecipeError, match="2 channels"):
        build_model("resnet", {}, in_channels=2, num_classes=10)
    with pytest.raises(RecipeError, match="1 classes"):
        build_model("resnet", {}, in_channels=3, num_classes=1)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        module = build_model(name, {}, in_channels=1, num_classes=2)
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
