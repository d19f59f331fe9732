"""Which of several training processes this is."""

from __future__ import annotations

import os

# Set by torchrun and SLURM; LOCAL_RANK alone is Lightning's own launcher on one machine.
_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK")


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    for variable in _VARIABLES:
        if variable in os.environ:
            return os.environ[variable] == "0"
    return True
