"""Training by many processes: the same subnets everywhere, gradients averaged once a step.

`torchrun` starts the processes and tells each its rank by environment variables. Gradients are
reduced by hand after all subnets of a step have run: parallel wrappers of modules expect every
parameter in every backward pass. As all ranks run the same subnets, the same parameters have
gradients on all of them.

Statistics of batch normalisation are those of the batches of all ranks, in training too, by a
mode that takes over `batch_norm`: networks need not know. PyTorch's own synchronised layer
refuses the CPU.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from results.errors import DeviceError, RunError

PATIENCE = timedelta(hours=2)  # for ranks that wait while the first one evaluates

MEETING = timedelta(minutes=10)  # between the first and the last process that is ready


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1  # processes
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all ranks, in one exchange per dtype."""
        if self.world == 1:
            return
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            alike = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.flatten() for t in alike])
            dist.all_reduce(flat)
            flat /= self.world
            for tensor, part in zip(
                alike, torch.split(flat, [t.numel() for t in alike]), strict=True
            ):
                tensor.copy_(part.view(tensor.shape))

    def average_gradients(self, model: nn.Module, *beside: Tensor) -> None:
        """Over all ranks, in place; `beside`, such as losses, go with them."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self.average([*gradients, *beside])

    def synchronised(self) -> AbstractContextManager[object]:
        """Batch normalisation over the batches of all ranks; networks run so on all of them."""
        return SynchronisedStatistics() if self.world > 1 else nullcontext()

    def check_together(self, step: int) -> None:
        """Raises RunError unless all ranks are `step` steps in."""
        if self.world == 1:
            return
        found = set(_of_ranks(torch.tensor([step], device=self.device)).flatten().tolist())
        if len(found) > 1:
            raise RunError(
                f"processes are {', '.join(map(str, sorted(found)))} steps in; give a run folder "
                "that all nodes see, by --out or --resume"
            )

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined(accelerator: str, environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started; one process alone without it.

    Raises DeviceError where CUDA or a device of its own for every process is missing, RunError
    where the processes do not meet.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device is here; leave --accelerator cuda out")
    world, local = int(environment.get("WORLD_SIZE", 1)), int(environment.get("LOCAL_RANK", 0))
    if accelerator == "cuda" and local >= torch.cuda.device_count():
        raise DeviceError(
            f"{torch.cuda.device_count()} CUDA devices are here, too few for process {local}; "
            f"start torchrun with --nproc-per-node {torch.cuda.device_count()}"
        )
    device = torch.device("cuda", local) if accelerator == "cuda" else torch.device("cpu")
    if accelerator == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield Ranks(device=device)
        return
    backend = "nccl" if accelerator == "cuda" else "gloo"
    try:
        store, rank, _ = next(rendezvous("env://", timeout=MEETING))
        store = meet(store, rank, world)
    except dist.DistStoreError as error:
        raise RunError(
            f"the {world} processes did not meet: {str(error).splitlines()[0]}"
        ) from None
    store.set_timeout(PATIENCE)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world,
        timeout=MEETING if backend == "gloo" else PATIENCE,  # gloo connects at once
    )  # fmt: skip
    dist.distributed_c10d._set_pg_timeout(PATIENCE)
    try:
        yield Ranks(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()


def meet(store: Store, rank: int, world: int) -> Store:
    """A part of `store` that only the `world` processes that were started together know.

    torchrun keeps one store however often it starts them, and in it the addresses of those that
    died, for which the new ones may wait (https://github.com/pytorch/pytorch/issues/135712); and
    each machine counts the starts by itself. So every process asks the first one by a name that
    was not there before. Raises RunError or DistStoreError where one does not come in time.
    """
    while isinstance(store, PrefixStore):  # by that count, in older PyTorch
        store = store.underlying_store
    if rank:
        me = uuid4().hex
        store.set(f"asks/{rank}", me)
        start = store.get(f"answer/{me}").decode()
        store.set(f"heard/{start}/{rank}", "")
        store.get(f"all/{start}")
        return PrefixStore(start, store)
    start, missing = uuid4().hex, set(range(1, world))
    end = time.monotonic() + MEETING.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"asks/{other}"]):  # maybe still of one that died
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", start)
            if store.check([f"heard/{start}/{other}"]):
                missing.remove(other)
        if time.monotonic() > end:
            raise RunError(f"process {min(missing)} of {world} did not come; look at its errors")
        time.sleep(0.02)
    store.set(f"all/{start}", "")
    return PrefixStore(start, store)


class SynchronisedStatistics(TorchFunctionMode):
    """While active, batch normalisation in training takes the batches of all ranks as one."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.batch_norm:
            func = _batch_norm
        return func(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`; x is (B, C, ...) of as many elements on every rank."""
    if not training:
        return functional.batch_norm(
            x, running_mean, running_var, weight, bias, training, momentum, eps
        )
    assert weight is not None, "without affine parameters nothing here normalises"
    assert bias is not None
    normalise: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Normalise.apply
    y, mean, var = normalise(x, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        count = x.numel() // x.shape[1] * dist.get_world_size()
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = var * (count / max(count - 1, 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return y


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias; mean and var are those of all ranks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = x.double() if x.dtype == torch.float64 else x.float()
        own = _per_channel(wide)
        own_var = _per_channel((wide - _as(own, x)).square())
        means, variances = _of_ranks(torch.stack([own, own_var])).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        centred = wide - _as(mean, x)
        scale = torch.rsqrt(var + eps)
        ctx.save_for_backward(x, weight, mean, scale)
        y = centred * _as(scale * weight, x) + _as(bias, x)
        ctx.mark_non_differentiable(mean, var)
        return y.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale = ctx.saved_tensors
        wide = dy.to(mean.dtype)
        normed = (x.to(mean.dtype) - _as(mean, x)) * _as(scale, x)
        mean_dy, mean_dyx = _per_channel(wide), _per_channel(wide * normed)
        count = x.numel() // x.shape[1]
        dweight, dbias = mean_dyx * count, mean_dy * count  # of this rank; averaged with the rest
        mean_dy, mean_dyx = _over_ranks(torch.stack([mean_dy, mean_dyx]))
        dx = (wide - _as(mean_dy, x) - normed * _as(mean_dyx, x)) * _as(scale * weight, x)
        return dx.to(x.dtype), dweight.to(weight.dtype), dbias.to(weight.dtype), None


def _of_ranks(tensor: Tensor) -> Tensor:
    """Every rank's, along a new first axis."""
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(found, tensor)
    return torch.stack(found)


def _over_ranks(tensor: Tensor) -> Tensor:
    total = tensor.clone()
    dist.all_reduce(total)
    return total.div_(dist.get_world_size())


def _per_channel(x: Tensor) -> Tensor:
    """(B, C, ...) -> the mean of each channel, (C,)."""
    return x.mean([d for d in range(x.dim()) if d != 1])


def _as(per_channel: Tensor, x: Tensor) -> Tensor:
    return per_channel.view(1, -1, *[1] * (x.dim() - 2))
