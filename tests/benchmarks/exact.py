"""Exact fronts of the default spaces: `python -m tests.benchmarks.exact`.

For each device, with and without a limit on the distance from the published shapes, a short
search by mutation gives a first front, and `nas.exact` the exact one, or a bound. The record goes
to results/benchmarks/exact.json.
"""

import json
import time

import numpy as np

from nas.engine.search_run import SearchRun
from nas.exact.incumbent import Incumbent
from nas.exact.pairs import Limits
from nas.exact.prove import ExactProblem, prove
from nas.options import SearchOptions
from predictors.accuracy import load_prior
from predictors.components import SpaceComponents
from tests.benchmarks.record import write_record

DEVICES = ("snapdragon8gen1", "orin", "a100", "jetson-nano", "example-cpu")
REACH = {"far": Limits(), "distance 2": Limits(distance=2.0)}
MOST_STATES = 10**9
GENERATIONS, CHILDREN = 150, 8000


def main() -> None:
    fields = {}
    for device in DEVICES:
        run = SearchRun.of(SearchOptions(device=(device,)))
        components, prior = SpaceComponents(run.space), load_prior(run.dataset)
        fields[device] = {"networks": run.space.size} | {
            name: measured(ExactProblem(run.space, components, run.latency, prior, limits))
            for name, limits in REACH.items()
        }
    record = write_record("exact", {"most_states": MOST_STATES, "devices": fields})
    print(json.dumps(record, indent=2))


def measured(problem):
    """Return what the exact front is like, and what it takes."""
    started = time.process_time()
    first = mutated(problem)
    searched = time.process_time()
    proof = prove(problem, first.genes, most_states=MOST_STATES)
    return {
        "kind": proof.kind,
        "points": len(proof.ms),
        "ms": [proof.ms[0], proof.ms[-1]],
        "accuracy": [proof.accuracy[0], proof.accuracy[-1]],
        "states": proof.states,
        "cpu_seconds": round(time.process_time() - searched, 1),
        "first_front": {
            "evaluated": (GENERATIONS + 1) * CHILDREN,
            "cpu_seconds": round(searched - started, 1),
            "points": len(first.ms),
            "missing_points": len(proof.missing),
            "gap_percent": proof.gap_percent,
        },
    }


def mutated(problem):
    """Return the front that crossing and mutating its own neighbours finds."""
    rng = np.random.default_rng(0)
    counts = np.array(list(problem.space.genes.values()))
    front = Incumbent(len(counts))
    shape = CHILDREN, len(counts)
    official = [problem.space.encode(arch) for arch in problem.space.extremes()]
    genes = np.concatenate([official, (rng.random(shape) * counts).astype(int)])
    for _ in range(GENERATIONS + 1):
        front.add(*problem.kept(genes))
        if not len(front.ms):
            genes = (rng.random(shape) * counts).astype(int)
            continue
        size = len(front.ms)
        one = rng.integers(size, size=CHILDREN)
        step = np.rint(rng.standard_normal(CHILDREN) * max(3, 0.03 * size)).astype(int)
        other = np.clip(one + step, 0, size - 1)
        genes = np.where(rng.random(shape) < 0.5, front.genes[one], front.genes[other])
        near = np.clip(genes + rng.integers(-1, 2, shape), 0, counts - 1)
        any_choice = (rng.random(shape) * counts).astype(int)
        chance = rng.random(shape) * len(counts)
        genes = np.where(chance < 1.5, near, np.where(chance < 2.0, any_choice, genes))
    return front


if __name__ == "__main__":
    main()
