"""What disturbed a benchmark, as far as the system tells: governor, boost, throttling, other work.

Linux tells most of it under /sys and /proc; what a system does not tell is None.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BUSY_SHARE = 0.5  # of the cores, in the load average of the last minute
STEAL_SHARE = 0.01

_CPU = "sys/devices/system/cpu"
_PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


@dataclass(frozen=True)
class Snapshot:
    """What the system says at one moment.

    Attributes:
        governors: Frequency governors of the cores, sorted, each once.
        turbo: Whether the processor may exceed its base frequency.
        throttle_events: Thermal throttlings counted since the machine was started.
        under_voltage_or_throttled: A Raspberry Pi's flags, 0 if all is well.
        load_average: Of the last minute, in processes.
        ticks: Processor time in all, and the part that the hypervisor took, in ticks.
    """

    governors: tuple[str, ...]
    turbo: bool | None
    throttle_events: int | None
    under_voltage_or_throttled: int | None
    load_average: float | None
    ticks: tuple[int, int] | None


@dataclass(frozen=True)
class Conditions:
    """What a benchmark ran under.

    Attributes:
        governors: Frequency governors of the cores; empty where unknown.
        turbo: Whether the processor may exceed its base frequency.
        throttle_events: Thermal throttlings during the run.
        load_average: Processes that wanted to run in the minute before, this one not included.
        steal_share: Share of processor time that a hypervisor took away during the run.
        notes: What a reader of the latencies should know, a sentence each.
    """

    governors: tuple[str, ...]
    turbo: bool | None
    throttle_events: int | None
    load_average: float | None
    steal_share: float | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The value of the key `machine.conditions`."""
        return {**asdict(self), "governors": list(self.governors), "notes": list(self.notes)}


def snapshot(root: Path = Path("/")) -> Snapshot:
    """Read what the system says now; `root` is where its /sys and /proc are."""
    cpus = root / _CPU
    governors = {_text(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    events = [_number(p) for p in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    load = _text(root / "proc/loadavg").split()
    return Snapshot(
        governors=tuple(sorted(governors - {""})),
        turbo=_turbo(cpus),
        throttle_events=sum(count or 0 for count in events) if events else None,
        under_voltage_or_throttled=_number(root / _PI_THROTTLED, base=16),
        load_average=float(load[0]) if load else None,
        ticks=_ticks(_text(root / "proc/stat")),
    )


def conditions(before: Snapshot, after: Snapshot, cores: int) -> Conditions:
    """Compare what the system said before and after a run on so many cores."""
    throttled = None
    if before.throttle_events is not None and after.throttle_events is not None:
        throttled = after.throttle_events - before.throttle_events
    steal = None
    if before.ticks is not None and after.ticks is not None:
        total = after.ticks[0] - before.ticks[0]
        steal = (after.ticks[1] - before.ticks[1]) / total if total else 0.0
    notes = []
    slow = [name for name in before.governors if name != "performance"]
    if slow:
        notes.append(
            f"the frequency governor is {', '.join(slow)}: under 'performance' times are steadier"
        )
    if throttled or _pi_throttled(before, after):
        notes.append("the processor was throttled during the run: cool it, or mind its supply")
    if before.load_average is not None and before.load_average > BUSY_SHARE * cores:
        notes.append(
            f"the machine was busy: load average {before.load_average:g} on {cores} cores before "
            "the run"
        )
    if steal is not None and steal > STEAL_SHARE:
        notes.append(f"the hypervisor took {steal:.1%} of the processor time during the run")
    return Conditions(
        governors=before.governors,
        turbo=before.turbo,
        throttle_events=throttled,
        load_average=before.load_average,
        steal_share=steal,
        notes=tuple(notes),
    )


def _pi_throttled(before: Snapshot, after: Snapshot) -> bool:
    """Whether a Raspberry Pi is slowed down now, or was since `before`.

    Bits 0 to 3 of its flags are of now, bits 16 to 19 of any time since it started.
    """
    flags = after.under_voltage_or_throttled or 0
    return bool(flags & 0xF or flags & ~(before.under_voltage_or_throttled or 0))


def _turbo(cpus: Path) -> bool | None:
    off = _number(cpus / "intel_pstate/no_turbo")
    if off is not None:
        return not off
    on = _number(cpus / "cpufreq/boost")
    return None if on is None else bool(on)


def _ticks(stat: str) -> tuple[int, int] | None:
    """All time and stolen time from the text of /proc/stat (man 5 proc)."""
    for line in stat.splitlines():
        name, *fields = line.split()
        if name == "cpu" and len(fields) >= 8:
            numbers = [int(field) for field in fields[:8]]  # guest time is part of user time
            return sum(numbers), numbers[7]
    return None


def _number(path: Path, base: int = 10) -> int | None:
    try:
        return int(_text(path), base)
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip() if os.access(path, os.R_OK) else ""
    except (OSError, UnicodeDecodeError):
        return ""
