"""One step of training: the subnets of a sandwich, their gradients, one move of the weights.

Everything random in a step derives from (seed, step), so that a trainer whose state was saved
and loaded goes on exactly as it would have.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from results.errors import UserError
from supernet.arch import Arch
from supernet.model import EfficientViT, build
from supernet.sam.model import Sam
from supernet.sharing.supernet import Supernet
from supernet.tasks.task import Task, to_device
from supernet.training.batches import Batch, seed_of
from supernet.training.distributed import Ranks
from supernet.training.optimise import (
    Average,
    adamw,
    learning_rate,
    moments,
    moments_like,
    set_moments,
)
from supernet.training.sandwich import Sampler, Sandwich
from supernet.training.snapshots import Facts

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Recipe:
    """How weights are trained."""

    num_steps: int
    lr: float = 1e-3  # at its peak
    weight_decay: float = 0.05
    warmup: int = 0  # steps
    clip: float | None = None  # largest norm of gradients
    accumulate: int = 1  # parts that a rank's share of a batch is run in
    alpha: float | None = None  # of the divergence that subnets learn by; None: Kullback-Leibler
    ema: float | None = None  # decay of the average of weights
    precision: str = "fp32"
    compile: bool = False  # the largest and the smallest subnet
    seed: int = 0


class Report(NamedTuple):
    """What a step leaves in the curve."""

    step: int  # from 1
    resolution: tuple[int, int]
    lr: float
    loss: float  # of the largest subnet, on labels (and an external teacher)
    distill: float | None  # mean over the other subnets
    grad_norm: float


class SingleNetwork(nn.Module):
    """One network where a supernet is expected."""

    def __init__(self, network: EfficientViT | Sam) -> None:
        super().__init__()
        self.network = network

    @property
    def decoder(self) -> nn.Module | None:
        """Return SAM's prompt encoder and mask decoder, where it is a SAM."""
        return self.network if isinstance(self.network, Sam) else None

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """Run the network at the size of x; `arch` is not looked at."""
        network = self.network
        output: Tensor = network.image_encoder(x) if isinstance(network, Sam) else network(x)
        return output


class Trainer:
    """Weights in training, with all that their next step depends on."""

    def __init__(
        self,
        model: Supernet | SingleNetwork,
        task: Task,
        sampler: Sampler,
        recipe: Recipe,
        ranks: Ranks | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        """`model` and `teacher` are moved to the ranks' device, channels last."""
        self.ranks = ranks or Ranks()
        self.model = model
        model.train().to(self.ranks.device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.task = task
        self.sampler = sampler
        self.recipe = recipe
        self.teacher = teacher and teacher.to(self.ranks.device).eval()
        self.done = 0  # steps
        self.optimizer = adamw(self.model, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.average = Average(self.model, recipe.ema) if recipe.ema else None
        self.scaler = torch.amp.GradScaler(
            self.ranks.device.type, enabled=recipe.precision == "fp16"
        )
        self._forwards: dict[Arch, Callable[[Tensor], Tensor]] = {}

    @property
    def parts(self) -> range:
        """Return which parts of a batch this rank runs, of `num_parts`."""
        first = self.ranks.rank * self.recipe.accumulate
        return range(first, first + self.recipe.accumulate)

    @property
    def num_parts(self) -> int:
        """Return how many equal parts a batch is split into, over all ranks."""
        return self.ranks.world * self.recipe.accumulate

    def step(self, batches: Sequence[Batch]) -> Report:
        """Train the next step's subnets on this rank's parts of its batch.

        Raises UserError where a loss or gradient is not finite; the weights are then those of
        the step before, statistics of batch normalisation aside.
        """
        sandwich, recipe = self.sampler.draw(self.done), self.recipe
        rate = learning_rate(
            self.done, peak=recipe.lr, warmup=recipe.warmup, num_steps=recipe.num_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)  # so that what no subnet used stays as it is
        losses = torch.zeros(len(sandwich.archs), device=self.ranks.device)
        with self.ranks.synchronised():
            for part, (x, target) in zip(self.parts, batches, strict=True):
                seed = seed_of(recipe.seed, "step", self.done, part)
                torch.manual_seed(seed)
                losses += self._part(sandwich, *self._moved(x, target, seed)) / recipe.accumulate
        self.ranks.average_gradients(self.model, losses)
        self.scaler.unscale_(self.optimizer)
        # foreach: else PyTorch takes one parameter after the other on a CPU
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), recipe.clip or math.inf, foreach=True
        )
        values = losses.tolist()
        self._check(values, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.done += 1
        if self.average:
            self.average.update(self.model)
        others = values[1:]
        return Report(
            self.done,
            sandwich.resolution,
            rate,
            values[0],
            sum(others) / len(others) if others else None,
            norm.item(),
        )

    def state(self) -> tuple[dict[str, Tensor], Facts]:
        """Return tensors, and numbers for JSON, that `load` goes on from."""
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"adamw.{n}": t for n, t in moments(self.model, self.optimizer).items()}
        if self.average:
            tensors |= {f"ema.{n}": t for n, t in self.average.state.items()}
        updates = self.average.num_updates if self.average else None
        return tensors, Facts(step=self.done, ema_updates=updates, scaler=self.scaler.state_dict())

    def load(self, tensors: Mapping[str, Tensor], facts: Facts) -> None:
        """Go on from what `state` of another trainer of the same model returned.

        Raises ValueError, before anything is loaded, where they are those of another one.
        """
        self._check_state(tensors, facts)
        self.model.load_state_dict(_below("model", tensors))
        set_moments(self.model, self.optimizer, _below("adamw", tensors))
        if self.average:
            average = _below("ema", tensors)
            for name, tensor in self.average.state.items():
                tensor.copy_(average[name])
            self.average.num_updates = facts.ema_updates or 0
        if self.scaler.is_enabled() and facts.scaler:
            self.scaler.load_state_dict(facts.scaler)
        self.done = facts.step

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the average of the weights in their place meanwhile, where there is one."""
        if self.average is None:
            yield
            return
        self.average.swap(self.model)
        try:
            yield
        finally:
            self.average.swap(self.model)

    def _check_state(self, tensors: Mapping[str, Tensor], facts: Facts) -> None:
        """Raise ValueError for names, shapes, dtypes or counts that this training cannot have."""
        needed = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        if self.average:
            needed |= {f"ema.{n}": t for n, t in self.average.state.items()}
        known = dict(needed)
        for name, parameter in self.model.named_parameters():
            of = moments_like(name, parameter)
            known |= of
            if not of.keys().isdisjoint(tensors):  # none of what no subnet has used yet
                needed |= of
        check_alike(tensors, needed)
        unknown = sorted(tensors.keys() - known.keys())
        if unknown:
            raise ValueError(f"{unknown[0]} has no place in this training")
        if self.average and facts.ema_updates != facts.step:
            raise ValueError(f"its average is of {facts.ema_updates} updates, not {facts.step}")
        for name in (name for name in needed if name.endswith(".step")):
            if not 0 <= tensors[name].item() <= facts.step:
                raise ValueError(f"{name} is {tensors[name]:g} after {facts.step} steps")
        scaler = self.scaler.state_dict()
        if facts.scaler.keys() != scaler.keys() and facts.scaler and scaler:
            raise ValueError(f"its scaler has {', '.join(facts.scaler)}")

    def _moved(self, x: Tensor, target: Any, seed: int) -> Batch:
        """Return a batch on the device, and mixed."""
        device = self.ranks.device
        x, target = x.to(device, non_blocking=True), to_device(target, device)
        x, target = self.task.mix(x, target, torch.Generator().manual_seed(seed))
        return x.contiguous(memory_format=torch.channels_last), target

    def _part(self, sandwich: Sandwich, x: Tensor, target: Any) -> Tensor:
        """Add the gradients of one part of a batch; return each subnet's loss, (len(archs),)."""
        wanted: Tensor | None = None
        if self.teacher is not None:
            with torch.no_grad(), self._autocast():
                wanted = self.teacher(x).float()
        losses: list[Tensor] = []
        for number, arch in enumerate(sandwich.archs):
            compile = self.recipe.compile and number < sandwich.num_fixed
            forward = self._compiled(arch) if compile else partial(self.model, arch=arch)
            with self._autocast():
                output = forward(x)
            output = output.float()
            if not losses:
                loss = self.task.loss(output, target, self.model.decoder)
                if wanted is not None:
                    loss = loss + self.task.distill(output, wanted, self.recipe.alpha)
                wanted = output.detach() if wanted is None else wanted
            else:
                assert wanted is not None
                loss = self.task.distill(output, wanted, self.recipe.alpha)
            torch.autograd.backward(self.scaler.scale(loss / self.recipe.accumulate))
            losses.append(loss.detach())
        return torch.stack(losses)

    def _autocast(self) -> torch.autocast:
        precision = self.recipe.precision
        return torch.autocast(
            self.ranks.device.type, DTYPES[precision], enabled=precision != "fp32"
        )

    def _compiled(self, arch: Arch) -> Callable[[Tensor], Tensor]:
        if arch not in self._forwards:
            self._forwards[arch] = compiled(self.model, arch)
        return self._forwards[arch]

    def _check(self, losses: Sequence[float], norm: Tensor) -> None:
        finite = all(abs(loss) < float("inf") for loss in losses)  # false for NaN too
        if finite and (self.scaler.is_enabled() or norm.isfinite()):
            return
        what = "loss" if not finite else "gradient"
        cure = f"--lr {self.recipe.lr / 3:.1g}" + ("" if self.recipe.clip else ", --clip 1")
        cure += "" if self.recipe.precision == "fp32" else " or --precision fp32"
        raise UserError(
            f"the {what} is not finite at step {self.done + 1} of {self.recipe.num_steps}; try "
            + cure
        )


def compiled(model: Supernet | SingleNetwork, arch: Arch) -> Callable[[Tensor], Tensor]:
    """Return x -> output of one subnet at its resolution, compiled.

    The weights are arguments, so they may move.
    """
    if isinstance(model, SingleNetwork):
        return _compile(lambda x: model(x, arch))
    with torch.device("meta"):
        network = build(arch).train()
    run = _compile(lambda weights, x: functional_call(network, weights, (x,)))
    return lambda x: run(model.weights(arch), x)


def _compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compile for the shapes that it meets, with a code object of its own.

    torch.compile keeps what it compiled by code object, at most eight times, and would meet the
    other resolutions there, for which it would compile anew for any shape, which fails.
    """
    assert isinstance(function, FunctionType)
    own = FunctionType(
        function.__code__.replace(), function.__globals__, closure=function.__closure__
    )
    return cast(Callable[..., Tensor], torch.compile(own, dynamic=False))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def check_alike(tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless `tensors` has all that are `needed`, of their shapes and dtypes."""
    for name, like in needed.items():
        if name not in tensors:
            raise ValueError(f"{name} is missing")
        tensor = tensors[name]
        if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, not {tuple(like.shape)} of "
                f"{like.dtype}"
            )
