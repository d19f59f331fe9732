"""Several training processes: which of them this is, and waiting for the others."""

from __future__ import annotations

import os

import torch

# Set by torchrun and SLURM; LOCAL_RANK alone is Lightning's own launcher on one machine.
_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK")


def is_first_process(processes: int) -> bool:
    """Whether this process is the one that writes.

    Args:
        processes: How many train together; one by itself writes, whatever its number.
    """
    if processes == 1:
        return True
    for variable in _VARIABLES:
        if variable in os.environ:
            return os.environ[variable] == "0"
    return True


def wait_for_all() -> None:
    """Return when every process of a distributed run has come here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
