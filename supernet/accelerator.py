"""Where PyTorch computes, and in which precision; PyTorch is imported when it is asked for."""

from typing import TYPE_CHECKING

from results.errors import DeviceError, check_choice

if TYPE_CHECKING:
    import torch

ACCELERATORS = ("cpu", "cuda")
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # PyTorch's names


def check_accelerator(name: str) -> None:
    """Raise DeviceError for an accelerator that is not known; see also `check_is_here`."""
    check_choice("accelerator", name, ACCELERATORS, DeviceError)


def check_precision(name: str) -> None:
    """Raise DeviceError for a precision that is not known."""
    check_choice("precision", name, PRECISIONS, DeviceError)


def check_is_here(accelerator: str) -> None:
    """Raise DeviceError where this machine has no such accelerator."""
    import torch

    if accelerator == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device is here; leave --accelerator cuda out")


def dtype_of(precision: str) -> "torch.dtype":
    """Return PyTorch's type of one of PRECISIONS."""
    import torch

    dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
    return dtype
