"""Training by many processes: the same subnets everywhere, gradients averaged once a step.

`torchrun` starts the processes and tells each its rank by environment variables. Gradients are
reduced by hand after all subnets of a step have run: parallel wrappers of modules expect every
parameter in every backward pass. As all ranks run the same subnets, the same parameters have
gradients on all of them.

Statistics of batch normalisation are those of the batches of all ranks, see `synchronised_norm`.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from results.errors import DeviceError, RunError
from supernet.training.synchronised_norm import SynchronisedStatistics, of_all_ranks

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
        """Tell whether this process writes files and speaks."""
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
        """Average a model's gradients over all ranks, in place, and with them those `beside`."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self.average([*gradients, *beside])

    def synchronised(self) -> AbstractContextManager[object]:
        """Normalise over the batches of all ranks meanwhile; all of them must run the network."""
        return SynchronisedStatistics() if self.world > 1 else nullcontext()

    def check_together(self, step: int) -> None:
        """Raise RunError unless all ranks are `step` steps in."""
        if self.world == 1:
            return
        steps = set(of_all_ranks(torch.tensor([step], device=self.device)).flatten().tolist())
        if len(steps) > 1:
            raise RunError(
                f"processes are {', '.join(map(str, sorted(steps)))} steps in; give a run folder "
                "that all nodes see, by --out or --resume"
            )

    def wait(self) -> None:
        """Wait until all ranks are here."""
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
    """Return a part of `store` that only the `world` processes started together know.

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
