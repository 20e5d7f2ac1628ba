"""What a search found, before it is thinned and evaluated alone to be shown."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.engine.cells import survivors
from nas.engine.reach import Cost
from nas.engine.sharing import Sharing
from nas.front import Candidate, step_of, thinned
from nas.objectives.objective import Objective
from predictors.worth import Array
from supernet.arch import Arch
from supernet.space import Space

STEPS = {3: 0.08, 4: 0.25}  # of costs, that networks of a thinned front differ in


@dataclass(frozen=True)
class Found:
    """The whole front, the least first cost first, and what keeping near costs."""

    whole: tuple[Candidate, ...]
    cost: Cost | None  # None: nothing kept the front near, or with `near_only` nobody knows
    near_only: bool = False  # networks beyond reach of what is known were not looked at
    sharing: Sharing | None = None  # None: one device


def thin(costs: Array, std: Array) -> list[int]:
    """Return which networks of a front, the least first cost first, differ by more than nothing.

    With two objectives they are `nas.front.thinned`. With more, no other is cheaper by a cell of
    `STEPS` in all costs (`nas.engine.cells`) and as accurate to a step.

    Args:
        costs: (networks, objectives), the last one the negative accuracy.
        std: of accuracies, (networks,).
    """
    num_objectives, accuracy = costs.shape[1], -costs[:, -1]
    if num_objectives == 2 or not len(costs):
        return thinned(accuracy.tolist(), std.tolist())
    levels = -np.floor(accuracy / step_of(float(np.median(std))))
    stepped = np.concatenate([costs[:, :-1], levels[:, None]], axis=1)
    return sorted(survivors(stepped, STEPS[num_objectives]).tolist())


def thinned_front(front: Sequence[Candidate], objectives: Sequence[Objective]) -> list[int]:
    """Return `thin` of candidates."""
    costs = [[objective.cost(candidate) for objective in objectives] for candidate in front]
    std = [candidate.accuracy_std for candidate in front]
    return thin(np.array(costs).reshape(len(front), len(objectives)), np.array(std))


def with_neighbours(space: Space, archs: Sequence[Arch], seed: int) -> list[Arch]:
    """Return networks, and after them one neighbour of each."""
    rng = random.Random(seed)
    return list(dict.fromkeys([*archs, *(_neighbour(space, arch, rng) for arch in archs)]))


def _neighbour(space: Space, arch: Arch, rng: random.Random) -> Arch:
    """Return a network that differs in one gene; itself where that gene has no meaning."""
    genes = list(space.encode(arch))
    number, count = rng.choice([pair for pair in enumerate(space.genes.values()) if pair[1] > 1])
    genes[number] = rng.choice([value for value in range(count) if value != genes[number]])
    return space.decode(genes)
