"""Telling a lack of memory from other errors."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, on an accelerator or in this process.

    PyTorch raises a plain RuntimeError where it cannot allocate on a CPU, as for much else.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
