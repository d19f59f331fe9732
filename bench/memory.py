"""Resident memory of this process, now and at its peak; Linux and macOS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def own_peak_rss_bytes() -> int:
    """Peak resident memory of this process in bytes."""
    if _STATUS.exists():  # getrusage would include the parent's peak from before exec
        return _status_bytes("VmHWM:")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def own_rss_bytes() -> int:
    """Resident memory of this process in bytes, now."""
    if _STATUS.exists():
        return _status_bytes("VmRSS:")
    command = ["/bin/ps", "-o", "rss=", "-p", str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - fixed
    return int(done.stdout) * 1024


def _status_bytes(key: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0
