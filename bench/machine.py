"""The machine that a benchmark ran on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

# Instruction sets that onnxruntime's kernels choose by: name printed -> names that systems use.
ISA_NAMES: dict[str, tuple[str, ...]] = {
    "avx": ("avx", "AVX1.0"),
    "avx2": ("avx2", "AVX2"),
    "f16c": ("f16c", "F16C"),
    "fma": ("fma", "FMA"),
    "avx512f": ("avx512f", "AVX512F"),
    "avx512bw": ("avx512bw", "AVX512BW"),
    "avx512_vnni": ("avx512_vnni", "AVX512VNNI"),
    "avx512_bf16": ("avx512_bf16",),
    "avx512_fp16": ("avx512_fp16",),
    "avx_vnni": ("avx_vnni",),
    "avx_vnni_int8": ("avx_vnni_int8",),
    "amx_int8": ("amx_int8",),
    "amx_bf16": ("amx_bf16",),
    "neon": ("asimd", "neon", "AdvSIMD"),
    "asimddp": ("asimddp", "FEAT_DotProd"),
    "fp16": ("asimdhp", "FEAT_FP16"),
    "bf16": ("bf16", "FEAT_BF16"),
    "i8mm": ("i8mm", "FEAT_I8MM"),
    "sve": ("sve",),
    "svei8mm": ("svei8mm",),
}
_CPUINFO = Path("/proc/cpuinfo")
_DEVICE_TREE_MODEL = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class Machine:
    """What decides how fast a model runs.

    Attributes:
        cpu: The processor's name.
        isa: Instruction sets that matter here, of `ISA_NAMES`.
        cores: Cores that this process may use.
        onnxruntime: Version of onnxruntime.
    """

    cpu: str
    isa: tuple[str, ...]
    cores: int
    onnxruntime: str


def describe_machine() -> Machine:
    """The machine that this process runs on."""
    if sys.platform == "linux":
        cpuinfo = _CPUINFO.read_text(encoding="utf-8", errors="replace")
        cpu, flags = linux_cpu_name(cpuinfo), linux_flags(cpuinfo)
    elif sys.platform == "darwin":
        cpu, flags = _sysctl("machdep.cpu.brand_string"), _macos_flags()
    else:
        cpu, flags = platform.processor(), set()
    return Machine(
        cpu=cpu or platform.machine(),
        isa=known_isa(flags),
        cores=usable_cores(),
        onnxruntime=str(ort.__version__),
    )


def linux_cpu_name(cpuinfo: str) -> str:
    """The processor's name from the text of /proc/cpuinfo, or the board's where there is none."""
    fields = _fields(cpuinfo)
    name = fields.get("model name") or fields.get("cpu model") or fields.get("Model")
    if not name and _DEVICE_TREE_MODEL.exists():
        name = _DEVICE_TREE_MODEL.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    return name or platform.machine()


def linux_flags(cpuinfo: str) -> set[str]:
    """The processor's features from the text of /proc/cpuinfo (x86 flags, ARM Features)."""
    fields = _fields(cpuinfo)
    return set(fields.get("flags", fields.get("Features", "")).split())


def known_isa(flags: Iterable[str]) -> tuple[str, ...]:
    """The entries of `ISA_NAMES` that are among a system's own names."""
    present = set(flags)
    return tuple(name for name, aliases in ISA_NAMES.items() if present.intersection(aliases))


def _fields(cpuinfo: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    return fields


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _macos_flags() -> set[str]:
    flags = set(_sysctl("machdep.cpu.features", "machdep.cpu.leaf7_features").split())
    arm = _sysctl("hw.optional.arm")
    for line in arm.splitlines():
        name, _, on = line.rpartition(":")
        if on.strip() == "1":
            flags.add(name.rpartition(".")[2])
    return flags


def _sysctl(*names: str) -> str:
    command = ["/usr/sbin/sysctl", *(("-n",) if names[0].startswith("machdep") else ()), *names]
    done = subprocess.run(  # noqa: S603 - a fixed command
        command, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
