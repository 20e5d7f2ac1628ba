"""Other ways to train a supernet, which the benchmark of weight sharing tries."""

import random
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from supernet.arch import Arch
from supernet.layers.initialise import initialise_weights
from supernet.sharing.extremes import OWN_WEIGHTS
from supernet.sharing.supernet import Supernet
from supernet.space import Space
from supernet.tasks.task import Task
from supernet.training.sandwich import Sampler, Sandwich, at, random_stream

SAMPLED = 1000  # archs that show nearly all widths; at a new one training stops with a KeyError


class Labelled:
    """A task where all subnets learn from labels, none from the largest."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def loss(self, output: Tensor, target: Any, decoder: nn.Module | None) -> Tensor:
        self.target, self.decoder = target, decoder
        return self.task.loss(output, target, decoder)

    def distill(self, output: Tensor, wanted: Tensor, alpha: float | None) -> Tensor:
        return self.task.loss(output, self.target, self.decoder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)


class FairMixers:
    """Largest and smallest with choices of own weights drawn, so that all train as often.

    Else two of three trainings of a mixer are of the one that the two have.
    """

    def __init__(self, sampler: Sampler, space: Space, seed: int) -> None:
        self.sampler, self.space, self.seed = sampler, space, seed

    def draw(self, step: int) -> Sandwich:
        drawn = self.sampler.draw(step)
        rng = random_stream(self.seed, "own weights", step)
        ends = [self._with_drawn(arch, rng) for arch in drawn.archs[:2]]
        return replace(drawn, archs=at([*ends, *drawn.archs[2:]], drawn.resolution), num_fixed=0)

    def _with_drawn(self, arch: Arch, rng: random.Random) -> Arch:
        _, part = self.space.part_of(arch)
        own = {
            name: rng.choice(choices)
            for name, choices in part.dimensions.items()
            if name.rpartition(".")[2] in OWN_WEIGHTS
        }
        return self.space.build(part, part.values(arch) | own)


class OwnNorms(Supernet):
    """A supernet that keeps scales and shifts of batch normalisation for each width.

    Source: Yu et al., Slimmable Neural Networks, ICLR 2019, https://arxiv.org/abs/1812.08928
    """

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        initialise_weights(self.nets)  # of some norms the scales are 0
        own: dict[str, nn.Parameter] = {}
        rng = random.Random(0)
        for arch in [*self.largest, *(space.sample(rng) for _ in range(SAMPLED))]:
            for _, source in self._plan(arch):
                if self._is_of_norm(source):
                    tensor = super()._tensor(source).detach().clone()
                    own.setdefault(_key(source), nn.Parameter(tensor))
        self.own = nn.ParameterDict(own)

    def _is_of_norm(self, source: Any) -> bool:
        owner = self._owners[source.owner]
        return isinstance(owner, nn.BatchNorm2d) and source.leaf in ("weight", "bias")

    def _tensor(self, source: Any) -> Tensor:
        if self._is_of_norm(source):
            tensor: Tensor = self.own[_key(source)]
            return tensor
        return super()._tensor(source)


def _key(source: Any) -> str:
    return f"{source.owner}.{source.leaf}.{source.slice.shape[0]}".replace(".", "_")
