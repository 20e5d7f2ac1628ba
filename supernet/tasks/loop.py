"""Run a network over a data set in order, in batches, with processes that read ahead."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from results.errors import NotFiniteError, UserError, reason_of

MAX_WORKERS = 8
T = TypeVar("T")


class Metric(Protocol):
    """Gathers what networks say of pictures and tells the figures of all of them."""

    def update(self, output: Tensor, target: Tensor, /) -> None:
        """Take a batch: the network's output, float32, and the targets."""
        ...

    def compute(self) -> dict[str, float]:
        """Return figures by name; `NAME_stderr` is the standard error of `NAME`."""
        ...


def read_batches(
    data: "Dataset[T]",
    *,
    batch_size: int,
    workers: int | None = None,
    pin_memory: bool = False,
) -> Iterator[list[T]]:
    """Yield the samples of `data` in order, `batch_size` at a time, the same for any `workers`.

    Args:
        workers: processes that read ahead; by default one a core, up to 8, if there is more
            than one batch. 0: read in this process.

    Raises UserError, as reading raised it, or where a process that reads has died.
    """
    length = len(data)  # type: ignore[arg-type]
    if workers is None:
        batches = -(-length // batch_size)
        workers = min(batches - 1, num_cores(), MAX_WORKERS)
    if workers:
        _open_more_files()
    loader = DataLoader(
        Answers(data),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_stacked if workers else list,
        pin_memory=pin_memory,
    )
    try:
        for loaded in loader:
            batch = _apart(loaded) if workers else loaded
            for sample in batch:
                if isinstance(sample, UserError):
                    raise sample
            yield batch
    except (RuntimeError, OSError) as error:
        if "DataLoader worker" not in str(error) and "Too many open files" not in str(error):
            raise
        raise UserError(f"reading failed ({reason_of(error)}); try --workers 0") from None


def _stacked(samples: list[Any]) -> list[tuple[Any, ...] | Any]:
    """Stack tensors of neighbours of equal shapes: each tensor that is sent keeps a file open."""
    stacked: list[Any] = []
    for shapes, group in groupby(samples, key=_shapes):
        same = list(group)
        if shapes is None:
            stacked += same
        else:
            stacked.append(_Stack([torch.stack(tensors) for tensors in zip(*same, strict=True)]))
    return stacked


def _apart(stacked: list[Any]) -> list[Any]:
    """Undo `_stacked`."""
    samples: list[Any] = []
    for item in stacked:
        samples += zip(*item.tensors, strict=True) if isinstance(item, _Stack) else [item]
    return samples


class _Stack:
    """Samples as one tensor for each place of theirs."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    def pin_memory(self) -> "_Stack":
        return _Stack([tensor.pin_memory() for tensor in self.tensors])


def _shapes(sample: Any) -> list[Any] | None:
    if type(sample) is not tuple or not all(isinstance(x, Tensor) for x in sample):
        return None
    return [(tensor.shape, tensor.dtype) for tensor in sample]


def _open_more_files() -> None:
    """Allow as many files as the system lets: what readers send are files, by default 1024."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS takes less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def evaluate(
    forward: Callable[[Tensor], Tensor],
    batches: Iterator[list[tuple[Tensor, Tensor]]],
    metric: Metric,
    *,
    device: torch.device,
    dtype: torch.dtype,
    done: Callable[[int], None] = lambda pictures: None,
) -> None:
    """Show all pictures to a network and its outputs to `metric`.

    Args:
        forward: the network, in evaluation mode, on `device` and of `dtype`.
        batches: pictures, float32, with their targets; those of equal shape in a row are run
            together.
        done: is told the number of pictures so far.

    Raises:
        NotFiniteError: an output is not finite.
    """
    pictures = 0
    with torch.inference_mode():
        for batch in batches:
            for _, group in groupby(batch, key=lambda pair: (pair[0].shape, pair[1].shape)):
                inputs, targets = (torch.stack(tensors) for tensors in zip(*group, strict=True))
                output = forward(inputs.to(device, dtype, non_blocking=True)).float()
                if not output.isfinite().all():
                    raise NotFiniteError(
                        f"the network's output is not finite in {dtype} for pictures "
                        f"{pictures + 1} to {pictures + len(inputs)}; "
                        + cure_of_not_finite(forward, dtype)
                    )
                metric.update(output, targets)
                pictures += len(inputs)
            done(pictures)


def cure_of_not_finite(network: Any, dtype: torch.dtype | None = None) -> str:
    """Return what helps where outputs of `network` are not finite, as the end of an error.

    Args:
        dtype: that it ran in; by default that of its parameters.
    """
    tensors = network.state_dict() if isinstance(network, nn.Module) else {}
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    dtype = dtype or next((tensor.dtype for tensor in floats.values()), torch.float32)
    is_half = dtype in (torch.float16, torch.bfloat16)
    for name, tensor in floats.items():  # infinity may be what the half precision made of it
        if tensor.isnan().any() or (not is_half and tensor.isinf().any()):
            return f"the weights hold NaN or infinity, in {name} first; give other --weights"
    if is_half:
        return "try --precision fp32, or other --weights"
    return "the weights are the cause; give other --weights"


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


@contextmanager
def core_for_readers(workers: int | None = None) -> Iterator[None]:
    """Leave one core to the processes that read, as PyTorch's threads spin while they wait.

    Where `workers` is 0 or OMP_NUM_THREADS is set, threads stay as they are.
    """
    before = torch.get_num_threads()
    if workers != 0 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(before, num_cores() - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Answers(Dataset[T | UserError], Generic[T]):
    """Errors as values: a process that reads would wrap a raised one in its traceback."""

    def __init__(self, data: "Dataset[T]") -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        try:
            return self.data[index]
        except UserError as error:
            return error
