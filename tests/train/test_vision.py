from __future__ import annotations

import subprocess
import sys

import pytest


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


def test_torchvision_imports_beside_this_torch_even_after_a_failed_attempt() -> None:
    done = _run(
        "import contextlib\n"
        "with contextlib.suppress(RuntimeError):\n"
        "    import torchvision\n"
        "from edgekit.train.vision import torchvision as ours\n"
        "import torch, torchvision\n"
        "from torchvision.transforms import v2\n"
        "assert torchvision is ours\n"
        "cropped = v2.RandomCrop(4)(torch.zeros(1, 8, 8))\n"
        "print(tuple(cropped.shape), ours.ops.SqueezeExcitation(4, 2))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, 4, 4) SqueezeExcitation(")


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_a_missing_package_is_named_with_the_extra_that_installs_it(package: str) -> None:
    done = _run(
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "from edgekit.runtime.errors import MissingExtraError\n"
        "try:\n"
        "    import edgekit.train.vision\n"
        "except MissingExtraError as error:\n"
        "    print(error)"
    )
    assert f"package {package}, " in done.stdout, done.stderr
    assert "edgekit[train]" in done.stdout
