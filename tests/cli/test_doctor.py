"""`edgekit doctor` as a user meets it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.bench.doctor import KernelPath, PathResult
from edgekit.bench.exact_integer import QuantizedConv
from edgekit.commands.doctor import diagnose
from edgekit.runtime.errors import ExactnessError

Command = Callable[..., Any]
EMULATOR = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
SMALL = ("doctor", "--convolutions", "18")


def loud_conv(tmp_path: Path, size: int) -> Path:
    conv = QuantizedConv(
        x=np.zeros((1, 4, 2, 2), np.uint8),
        w=np.full((3, 4, 1, 1), size, np.int8),
        bias=np.zeros(3, np.int32),
        x_scale=1.0,
        w_scale=np.ones(1, np.float32),
        y_scale=1.0,
        x_zero=0,
        w_zero=0,
        y_zero=0,
    )
    path = tmp_path / f"loud{size}.onnx"
    onnx.save(conv.to_onnx(), path)
    return path


def is_exact(out: str) -> bool:
    return bool(json.loads(out)["exactness"]["exact"])


def test_json_tells_the_machine_and_the_verdict(edgekit: Command) -> None:
    outcome = edgekit(*SMALL, "--seed", "4", "--format", "json")
    found = json.loads(outcome.out)
    assert outcome.status == (0 if is_exact(outcome.out) else 1)
    assert found["schema_version"] == 1
    assert found["target"] in ("avx2", "avx512-vnni", "arm64")
    assert found["capabilities"]["versions"]["numpy"] == np.__version__
    exactness = found["exactness"]
    assert (exactness["convolutions"], exactness["seed"]) == (18, 4)
    assert sum(path["convolutions"] for path in exactness["paths"]) == 18
    assert found["saturation"] is None


def test_the_table_lists_every_kernel(edgekit: Command) -> None:
    outcome = edgekit(*SMALL)
    for word in ("int8 kernels", "verdict", "U8S8", "S8S8", "depthwise", "matrix", "direct"):
        assert word in outcome.out


def test_a_model_that_overflows_on_avx2_is_told(edgekit: Command, tmp_path: Path) -> None:
    loud = loud_conv(tmp_path, 127)
    table = edgekit(*SMALL, loud)
    assert "1 of 1 layers" in table.out
    assert "--target avx2" in table.err
    found = json.loads(edgekit(*SMALL, loud, "--format", "json").out)["saturation"]
    assert found["layers_overflowing"] == 1
    assert found["layers"][0]["overflowing"] == 3
    quiet = json.loads(edgekit(*SMALL, loud_conv(tmp_path, 64), "--format", "json").out)
    assert (quiet["saturation"]["layers_checked"], quiet["saturation"]["layers"]) == (1, [])


def test_bad_input_is_one_line(refuses: Command, tmp_path: Path) -> None:
    refuses("doctor", tmp_path / "missing.onnx")
    refuses("doctor", "--convolutions", "0")


def test_what_is_inexact_fails_with_the_kernel_and_the_way_out() -> None:
    healthy = diagnose(None, convolutions=9, seed=0)
    fine = PathResult(KernelPath("U8U8", "matrix"), 5, 0, 1, None, "")
    wrong = PathResult(KernelPath("U8S8", "matrix"), 4, 3, 99, 0, "3x3 convolution")
    replace(healthy, paths=(fine,)).check()
    with pytest.raises(
        ExactnessError, match=r"3 of 9 .*U8S8 matrix; up to 99 .*--target avx2.*x64"
    ) as e:
        replace(healthy, paths=(fine, wrong)).check()
    assert e.value.exit_status == 1
    unmended = replace(healthy, paths=(replace(wrong, exact_mode_error=50),))
    assert "x64quantprecision" not in unmended.advice[0]
    broken = replace(healthy, paths=(replace(wrong, path=KernelPath("S8S8", "direct")),))
    assert "do not trust" in broken.advice[0]


@pytest.mark.slow
@pytest.mark.skipif(EMULATOR is None, reason="needs qemu-x86_64")
def test_avx2_without_vnni_is_caught(tmp_path: Path) -> None:
    """On an emulated processor of that kind, onnxruntime's own kernels overflow."""
    model = loud_conv(tmp_path, 127)
    done = subprocess.run(
        [str(EMULATOR), "-cpu", "Haswell", sys.executable, "-m", "edgekit", *SMALL, str(model)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "U8S8 direct, U8S8 matrix" in done.stderr
    assert "not exact" in done.stdout
    assert re.search(r"--target auto +avx2", done.stdout)
