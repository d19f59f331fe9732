from __future__ import annotations

import os

import onnxruntime as ort
import pytest

from edgekit.bench.int8_kernels import INT8_KERNELS, PORTABLE, int8_kernels
from edgekit.bench.machine import (
    ISA_NAMES,
    describe_machine,
    known_isa,
    linux_cpu_name,
    linux_flags,
)
from edgekit.export.targets import find_target

X86 = """processor\t: 0
model name\t: Example CPU @ 2.00GHz
flags\t\t: fpu sse2 avx2 f16c avx512f avx512_vnni amx_int8 hypervisor

processor\t: 1
model name\t: Example CPU @ 2.00GHz
"""
ARM = """processor\t: 0
Features\t: fp asimd evtstrm asimdhp asimddp i8mm

Model\t\t: Example Pi 5
"""


def test_x86_cpuinfo_is_read() -> None:
    assert linux_cpu_name(X86) == "Example CPU @ 2.00GHz"
    assert known_isa(linux_flags(X86)) == ("avx2", "f16c", "avx512f", "avx512_vnni", "amx_int8")


def test_arm_cpuinfo_is_read() -> None:
    assert linux_cpu_name(ARM) == "Example Pi 5"
    assert known_isa(linux_flags(ARM)) == ("neon", "asimddp", "fp16", "i8mm")


def test_this_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.cpu
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.onnxruntime == ort.__version__


@pytest.mark.parametrize(
    ("isa", "name", "saturates", "target"),
    [
        (("avx2", "fma"), "AVX2", True, "avx2"),
        (("avx2", "avx512f", "avx512bw"), "AVX512", True, "avx2"),
        (("avx2", "avx_vnni"), "AVX-VNNI", False, "avx512-vnni"),
        (("avx2", "avx512bw", "avx512_vnni"), "AVX512-VNNI", False, "avx512-vnni"),
        (("avx2", "avx512bw", "avx512_vnni", "amx_int8"), "AMX", False, "avx512-vnni"),
        (("neon",), "NEON", False, "arm64"),
        (("neon", "asimddp"), "ARM dot product", False, "arm64"),
        (("neon", "asimddp", "i8mm"), "ARM i8mm", False, "arm64"),
        ((), "portable", False, "avx512-vnni"),
    ],
)
def test_instruction_sets_choose_the_kernels(
    isa: tuple[str, ...], name: str, saturates: bool, target: str
) -> None:
    kernels = int8_kernels(isa)
    assert (kernels.name, kernels.saturates, kernels.target) == (name, saturates, target)


def test_kernels_need_known_instruction_sets_and_name_known_targets() -> None:
    for kernels in (*INT8_KERNELS, PORTABLE):
        assert set(kernels.needs) <= set(ISA_NAMES)
        assert find_target(kernels.target).reduce_range == kernels.saturates
