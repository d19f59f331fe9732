from __future__ import annotations

import os

import onnxruntime as ort

from edgekit.bench.machine import describe_machine, known_isa, linux_cpu_name, linux_flags

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
