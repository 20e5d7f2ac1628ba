"""Networks whose evaluation tells most about the front of latency and accuracy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.active import Points, choose, on_front
from predictors.batch import Batch
from predictors.components import SpaceComponents
from predictors.evaluations import Evaluations
from predictors.latency import LatencyPredictor
from predictors.two_levels import FirstLevel
from predictors.worth import Array
from results.errors import SpaceError, check_least
from supernet.arch import Arch
from supernet.space import Space

MOST = 1000  # networks at once; a model that knows the first of them chooses the others better
MOST_LISTED = 4096  # networks that are not evaluated, up to which all are candidates
DRAWN = 1500  # candidates at random of a larger one,
GENERATIONS, CHILDREN = 5, 400  # and how many descend from the best of them
PARENTS = 32
CROSSED = 0.5  # share of the children that have two parents

Genes = NDArray[np.integer]


def check_count(count: int) -> None:
    """Raise SpaceError or UserError for a number of networks that nobody should ask for at once."""
    check_least("--propose", count, 1)
    if count > MOST:
        raise SpaceError(
            f"--propose takes {MOST} at most, not {count}: evaluate those and propose again, as "
            "what they reach tells more about the others"
        )


@dataclass(frozen=True)
class Known:
    """What is known before anything is proposed."""

    accuracy: FirstLevel
    latency: LatencyPredictor
    evaluations: Evaluations


def propose(known: Known, space: Space, count: int, seed: int = 0) -> Batch:
    """Return `count` networks of `space` that are not evaluated yet, the most valuable first.

    The hypervolume is that of log milliseconds and the metric's own points; the front, that of the
    evaluated networks of `space`. Candidates of a small space are all its networks; of another,
    random ones and what descends from the best of these.

    Raises SpaceError where fewer are left.
    """
    values = dict(zip(known.evaluations.archs, known.evaluations.values, strict=True))
    inside = [arch for arch in values if arch in space]
    if count > (left := space.size - len(inside)):
        raise SpaceError(_too_few_left(space, count, left))
    components = SpaceComponents(space)
    batch = Batch.of(space, inside, components)
    evaluated = Points(_costs(known, batch), np.array([values[arch] for arch in inside]))
    pool = Pool(known, space, components, set(inside))
    if left <= max(MOST_LISTED, 4 * count):
        pool.add(list(space.enumerate()))
    else:
        _breed(pool, batch.genes[on_front(evaluated)], evaluated, count, seed)
    chosen = choose(pool.points, pool.stds, evaluated, count)
    return Batch.of(space, [pool.archs[index] for index in chosen], components)


class Pool:
    """Distinct networks that may be proposed, with what is expected of them."""

    def __init__(
        self, known: Known, space: Space, components: SpaceComponents, others: set[Arch]
    ) -> None:
        """Begin without any; `others` are never taken up."""
        self.space, self._known, self._seen = space, known, set(others)
        self._components = components
        self.archs: list[Arch] = []
        self.genes: Genes = np.empty((0, len(space.genes)), dtype=np.int64)
        self.points = Points(np.empty(0), np.empty(0))  # log milliseconds, means of accuracies
        self.stds: Array = np.empty(0)

    def add(self, archs: list[Arch]) -> None:
        """Take up those that are new."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self._seen]
        if not new:
            return
        batch = Batch.of(self.space, new, self._components)
        means, stds = self._known.accuracy.predict_function(batch)
        self._seen.update(new)
        self.archs += new
        self.genes = np.concatenate((self.genes, batch.genes))
        self.points = self.points.with_all(Points(_costs(self._known, batch), means))
        self.stds = np.concatenate((self.stds, stds))


def _breed(pool: Pool, best: Genes, evaluated: Points, count: int, seed: int) -> None:
    """Fill a pool with random networks and, generation by generation, with better ones.

    The space holds several times as many as are drawn. Parents are those that would be proposed,
    and the evaluated front, whose genes `best` are.
    """
    rng = np.random.default_rng(seed)
    space, most = pool.space, np.array(list(pool.space.genes.values()))
    wanted = max(DRAWN, 2 * count)
    while len(pool.archs) < wanted:
        pool.add(_decoded(space, rng.integers(most, size=(DRAWN, len(most)))))
    for _ in range(GENERATIONS):
        parents = choose(pool.points, pool.stds, evaluated, PARENTS)
        genes = np.concatenate((best, pool.genes[parents]))
        pool.add(_decoded(space, children_of(genes, most, CHILDREN, rng)))


def children_of(parents: Genes, most: Genes, count: int, rng: np.random.Generator) -> Genes:
    """Return genes (count, genes): of one parent or of two, with one mutation on average.

    Args:
        parents: (parents, genes).
        most: number of choices of each gene.
    """
    first, second = (parents[rng.integers(len(parents), size=count)] for _ in range(2))
    is_crossed = rng.random((count, 1)) < CROSSED
    of_second = is_crossed & (rng.random(first.shape) < 0.5)
    mutates = rng.random(first.shape) < 1 / len(most)
    mutates[np.arange(count), rng.integers(len(most), size=count)] |= ~is_crossed[:, 0]
    return np.where(
        mutates, rng.integers(most, size=first.shape), np.where(of_second, second, first)
    )


def _decoded(space: Space, genes: Genes) -> list[Arch]:
    return [space.decode(row) for row in genes.tolist()]


def _costs(known: Known, batch: Batch) -> Array:
    latencies, _ = known.latency.predict_many(batch)
    return np.log(latencies)


def _too_few_left(space: Space, count: int, left: int) -> str:
    if left <= 0:
        return (
            f"all {space.size} networks of space {space.name} are evaluated; evaluate some of a "
            "larger one, or freeze less"
        )
    are = "is" if left == 1 else "are"
    return (
        f"{left} of the {space.size} networks of space {space.name} {are} not evaluated yet; give "
        f"--propose {left}, not {count}"
    )
