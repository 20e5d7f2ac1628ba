"""How near the networks that devices share are to the least worst-device regret there is.

python -m tests.benchmarks.sharing

Of all networks of the default space, a bound: with L the latencies of a network on two devices, O
the least of a network as accurate on either alone, and any weight w >= 0, the worst regret R keeps
L1 + w L2 <= (1 + R)(O1 + w O2). The least of L1 + w L2 at each accuracy is an exact front itself,
of a table that adds up both; the bound is the best over WEIGHTS, and the least of slices that make
up the space. So are O1 and O2 exact fronts.
What a search finds lies above it by at most the gap that is recorded: part of it is the bound's.
The time of the whole command is told beside that of one device, as processes in turn.
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lut.rows import Entry
from lut.table import Table
from lut.terms import NetworkTerms
from nas.engine.archive import Evolution
from nas.engine.numbers import Evaluator
from nas.engine.search_run import SearchRun
from nas.engine.views import of_objectives
from nas.exact.pairs import Limits
from nas.exact.problem import ExactProblem
from nas.exact.prove import prove
from nas.objectives.objective import DEFAULT
from nas.options import FAR, NEAR, SearchOptions
from predictors.accuracy import EXTRAPOLATED, load_prior
from predictors.components import SpaceComponents
from predictors.latency import LatencyPredictor
from predictors.worth import Array
from supernet.space import Space
from tests.benchmarks.record import ROOT, write_record

PAIRS = (("snapdragon8gen1", "orin"), ("orin", "example-cpu"))
LIMITS = {FAR: Limits(), NEAR: Limits(distance=EXTRAPOLATED)}
WEIGHTS = 12  # of the second latency, evenly apart in their logarithm
SPLIT = ("resolution",)  # dimensions, in their turn; more of them take hours
WANTED = 0.02  # of a gap, where splitting ends
LEVELS = 401  # of accuracy
MOST_STATES = 10**9
FIRST = 60_000  # networks that are evaluated before a proof
ROUNDS = 2


def main() -> None:
    pairs = {
        f"{pair[0]} and {pair[1]}": {reach: gap_of(pair, reach) for reach in (FAR, NEAR)}
        for pair in PAIRS
    }
    found = {"pairs": pairs, "whole_commands": compared(PAIRS[0])}
    print(json.dumps(write_record("sharing", found), indent=2))


def gap_of(devices: tuple[str, ...], reach: str) -> dict[str, Any]:
    """Return the regret that a search finds, and the bound."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [word for device in devices for word in ("--device", device)]
        out = Path(folder) / "run"
        searched(out, *flags, "--reach", reach)
        outcome = json.loads((out / "run.json").read_text())["outcome"]
        names = [*(f"latency_{device}_ms" for device in devices), "accuracy"]
        with (out / "front_all.csv").open() as file:
            rows = list(csv.DictReader(file))
        shared = np.array([[float(row[name]) for name in names] for row in rows]).T
    run = SearchRun.of(SearchOptions(device=devices))
    fronts = [front_of(run, run.space, latency, reach) for latency in run.latencies]
    low = max(accuracy[0] for _, accuracy in fronts)
    high = min(min(accuracy[-1] for _, accuracy in fronts), shared[2].max())
    levels = np.linspace(low, high, LEVELS)
    own = [least_ms(front, levels) for front in fronts]
    regrets = np.array(
        [
            max_of(shared[:2, shared[2] >= level] / np.array([own[0][i], own[1][i]])[:, None]) - 1
            for i, level in enumerate(levels)
        ]
    )
    bounds, num_slices = Bounding(run, reach, levels, own, regrets).all_slices()
    return {
        "regret_percent": spread(regrets),
        "bound_percent": spread(bounds),
        "slices": num_slices,
        "gap_percent": spread((1 + regrets) / (1 + bounds) - 1),
        "told_mean_percent": round(100 * outcome["sharing"]["mean"], 2),
        "taken_over": outcome["sharing"]["taken_over"],
    }


@dataclass
class Bounding:
    """Bounds the regret from below, and splits the space where that is not tight."""

    run: SearchRun
    reach: str
    levels: Array
    own: list[Array]  # ms of each device alone, (levels,)
    regrets: Array  # that were found, (levels,)

    def all_slices(self) -> tuple[Array, int]:
        """Return the bound of all networks, (levels,), and of how many slices it is made."""
        bounds, count = np.full(len(self.levels), np.inf), 0
        for part in self.run.space.parts:
            whole = self.run.space.freeze([f"family={part.name}"])
            left = [(whole, 0, np.zeros(len(self.levels)))]
            while left:
                space, depth, above = left.pop()
                found = self.bounds_of(space, self.is_open(above), above)
                count += 1
                is_open = self.is_open(found)
                if depth < len(SPLIT) and is_open.any():
                    name = SPLIT[depth]
                    (own,) = space.parts
                    words = map(str_of, own.dimensions[name])
                    left += [(space.freeze([f"{name}={w}"]), depth + 1, found) for w in words]
                else:
                    bounds = np.minimum(bounds, found)
        return bounds, count

    def is_open(self, bounds: Array) -> NDArray[np.bool_]:
        """Tell at which levels a slice may have networks better than what was found."""
        return (1 + self.regrets) / (1 + bounds) > 1 + WANTED

    def bounds_of(self, space: Space, is_open: NDArray[np.bool_], above: Array) -> Array:
        """Return a bound of the regret of all networks of a space, (levels,); inf: it has none.

        Args:
            is_open: at which levels to look.
            above: a bound of a space around it.
        """
        components = SpaceComponents(space)
        ratios = (self.own[0] / self.own[1])[is_open]
        bounds = above
        for weight in np.geomspace(ratios.min(), ratios.max(), WEIGHTS):
            latency = LatencyPredictor(sum_of(self.run, components, weight))
            front = front_of(self.run, space, latency, self.reach)
            if not len(front[0]):
                return np.full(len(self.levels), np.inf)
            least = least_ms(front, self.levels)
            bounds = np.maximum(bounds, least / (self.own[0] + weight * self.own[1]) - 1)
        return bounds


def str_of(choice: object) -> str:
    return str(choice[0] if isinstance(choice, tuple) else choice)


def front_of(
    run: SearchRun, space: Space, latency: LatencyPredictor, reach: str
) -> tuple[Array, Array]:
    """Return the exact front of a space, as latencies and accuracies."""
    evaluator = Evaluator(space, (latency,), run.accuracy)
    view = of_objectives(DEFAULT, (), near_only=reach == NEAR)
    starts = np.array([space.encode(arch) for arch in space.extremes()])
    known = Evolution(
        tuple(space.genes.values()),
        lambda genes: (view.judge(evaluator.numbers(genes)),),
        (2,),
        starts,
        seed=0,
    ).run(FIRST)
    problem = ExactProblem(
        space, evaluator.components, latency, load_prior(run.dataset), LIMITS[reach]
    )
    proof = prove(problem, known.archives[0].genes, most_states=MOST_STATES)
    assert proof.kind == "exact", proof
    return proof.ms, proof.accuracy


def max_of(ratios: Array) -> float:
    """Return the least over networks of the largest ratio."""
    return float(ratios.max(axis=0).min())


def least_ms(front: tuple[Array, Array], levels: Array) -> Array:
    """Return the least latency that reaches accuracies; a written one may be 1e-4 above."""
    ms, accuracy = front
    return np.append(ms, np.inf)[np.searchsorted(accuracy, levels - 1e-4)]


def sum_of(run: SearchRun, components: SpaceComponents, weight: float) -> Table:
    """Return a table whose latencies are the first device's plus `weight` times the second's."""
    first, second = (latency.table for latency in run.latencies)
    blocks = {block for part in components.parts for block in part.sums.blocks}
    entries = {
        block: Entry(first.block_ms(block) + weight * second.block_ms(block), 0.0, 0)
        for block in blocks
    }
    names = [field.name for field in fields(NetworkTerms) if field.name != "scale"]
    terms = NetworkTerms(
        **{
            name: getattr(first.terms, name) + weight * getattr(second.terms, name)
            for name in names
        }
    )
    return Table("sum", "sum", first.runtime, first.precision, first.batch, entries, terms)


def spread(values: Array) -> dict[str, float]:
    return {
        "mean": round(100 * float(values.mean()), 2),
        "worst": round(100 * float(values.max()), 2),
        "share_within_2": round(float((values <= 0.02).mean()), 3),
    }


def compared(devices: tuple[str, ...]) -> dict[str, Any]:
    """Time whole commands for one device and for two, in turn."""
    taken: dict[str, list[float]] = {"one": [], "two": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS):
            for name, count in (("one", 1), ("two", 2))[:: 1 if turn % 2 else -1]:
                flags = [word for device in devices[:count] for word in ("--device", device)]
                started = time.monotonic()
                searched(Path(folder) / f"{name}-{turn}", *flags)
                taken[name].append(round(time.monotonic() - started, 2))
    ratio = statistics.median(two / one for one, two in zip(*taken.values(), strict=True))
    return {"devices": devices, "wall_s": taken, "ratio": round(ratio, 3)}


def searched(out: Path, *flags: str) -> None:
    command = [sys.executable, "-m", "nas.search", "--quiet", "--out", str(out), *flags]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
