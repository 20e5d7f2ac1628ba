"""Chosen evaluations and random ones: `python -m tests.benchmarks.active_choice --tables DIR`.

On the public tables of `few_samples`, whose files DIR holds, networks are evaluated in batches, at
first at random. After each batch a Gaussian process (alone: it is the cheapest of what
`predictors.fit` fits; features are costs by stage) is fitted to what is evaluated, and predicts a
front of MACs and accuracy over the whole table. What that front and the evaluated networks truly
reach is their hypervolume, here as its loss: the percentage of the table's own that they lack, with
the logarithms of MACs, which is what is optimised, and with MACs as they are.

Arms: random; gp, the choice of `predictors.active` by the process's standard deviation without
noise; even, the same by one width for all networks, as most intervals of fitted models are; mean,
by means alone. The record goes to results/benchmarks/active_choice.json.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from predictors.active import Points, Reference, choose, hypervolume, on_front, reference_of
from predictors.models import gp as gps
from predictors.models.choose import encoded
from predictors.models.fitting import tuned
from predictors.models.table import Array, Table
from predictors.models.warp import Warp
from tests.benchmarks.few_samples import TABLES
from tests.benchmarks.record import write_record

ARMS = ("random", "gp", "even", "mean")
START, BATCH, LAST_CHOSEN, LAST = 40, 24, 256, 400  # evaluations
EVERY = 3  # batches of the random arm, after which it is judged: it needs no model before
DRAWS, SHARE = 10, 0.6
Rows = NDArray[np.intp]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args()
    started = time.perf_counter()
    rows: dict[str, Any] = {}
    for name, read in TABLES.items():
        genes, costs, values = read(arguments.tables)
        judged = judge(Table.of(genes, values, costs), arguments.draws)
        rows[name] = judged
        print(name, json.dumps(judged["evaluations_to_reach_random"]), flush=True)
    fields = {
        "draws": arguments.draws,
        "start": START,
        "batch": BATCH,
        "last": {"random": LAST, "others": LAST_CHOSEN},
        "share_asked": SHARE,
        "seconds": round(time.perf_counter() - started),
        "rows": rows,
    }
    command = f"python -m tests.benchmarks.active_choice --tables DIR --draws {arguments.draws}"
    write_record("active_choice", fields, command=command)


def judge(table: Table, draws: int) -> dict[str, Any]:
    """Losses of all arms by number of evaluations, and when each reaches the random arm's last."""
    truth = Truth.of(table)
    found = {arm: [run(table, truth, arm, draw) for draw in range(draws)] for arm in ARMS}
    last = [steps[LAST]["loss"] for steps in found["random"]]
    return {
        "networks": len(table),
        "on_the_front": len(on_front(truth.points)),
        "evaluations_to_reach_random": {
            arm: needed([first_within(s, aim) for s, aim in zip(runs, last, strict=True)])
            for arm, runs in found.items()
            if arm != "random"
        },
        "steps": {
            arm: {
                str(count): {
                    name: interval([s[count][name] for s in runs]) for name in runs[0][count]
                }
                for count in runs[0]
            }
            for arm, runs in found.items()
        },
    }


@dataclass(frozen=True)
class Truth:
    """What a table knows of all its networks."""

    points: Points  # log MACs, values
    reference: Reference

    @classmethod
    def of(cls, table: Table) -> "Truth":
        points = Points(np.log(table.features["macs"]), table.values)
        return cls(points, reference_of(points))

    def take(self, rows: Rows) -> Points:
        return Points(self.points.costs[rows], self.points.values[rows])

    def loss(self, rows: Rows, *, linear: bool = False) -> float:
        """Percent of the table's hypervolume that some of its networks lack."""

        def volume(points: Points) -> float:
            if not linear:
                return hypervolume(points, self.reference)
            own = Reference(float(np.exp(self.reference.cost)), self.reference.value)
            return hypervolume(Points(np.exp(points.costs), points.values), own)

        return 100 * (1 - volume(self.take(rows)) / volume(self.points))


Steps = dict[int, dict[str, float]]  # by number of evaluations


def run(table: Table, truth: Truth, arm: str, draw: int) -> Steps:
    """Evaluate batch by batch."""
    rng = np.random.default_rng(draw)
    order = rng.permutation(len(table))
    rows, steps = order[:START], Steps()
    last = LAST if arm == "random" else LAST_CHOSEN
    while True:
        batches = (len(rows) - START) // BATCH
        if arm != "random" or batches % EVERY == 0:
            means, stds = fit(table.take(np.sort(rows)), table)
            steps[len(rows)] = figures(truth, rows, means)
        if len(rows) >= last:
            return steps
        if arm == "random":
            rows = order[: len(rows) + BATCH]
            continue
        left = np.setdiff1d(np.arange(len(table)), rows)
        own = {"gp": stds[left], "even": np.full(len(left), stds.mean()), "mean": 0 * stds[left]}
        candidates = Points(truth.points.costs[left], means[left])
        rows = np.append(rows, left[choose(candidates, own[arm], truth.take(rows), BATCH)])


def fit(kept: Table, table: Table) -> tuple[Array, Array]:
    """Means of all networks of a table by those kept, and standard deviations without noise."""
    encoding, data = encoded(kept)
    bend, theta = tuned(data)
    warp = Warp.of(kept.values, bend)
    process = gps.condition(data.z, warp.to(kept.values), data.groups, theta)
    means, stds = process.predict_function(encoding.encode(table.genes, table.features).z)
    return warp.back(means), warp.slope(means) * stds


def figures(truth: Truth, rows: Rows, means: Array) -> dict[str, float]:
    """Losses in percent, of the predicted front with and without what is evaluated."""
    predicted = on_front(Points(truth.points.costs, means))
    both = np.union1d(predicted, rows)
    return {
        "loss": truth.loss(both),
        "linear_loss": truth.loss(both, linear=True),
        "predicted_loss": truth.loss(predicted),
        "evaluated_loss": truth.loss(rows),
    }


def first_within(steps: Steps, aim: float) -> int | None:
    """The number of evaluations from which on the loss is at most `aim`; None: not to the end."""
    found = None
    for count in sorted(steps, reverse=True):
        if steps[count]["loss"] > aim:
            break
        found = count
    return found


def needed(found: list[int | None]) -> dict[str, Any]:
    """Evaluations as a share of the random arm's; a draw that does not get there counts as all."""
    shares = [(LAST if count is None else count) / LAST for count in found]
    mean, low, high = interval(shares)
    return {
        "share": mean,
        "share_95": [low, high],
        "not_reached": found.count(None),
        "reached": bool(high <= SHARE),
    }


def interval(values: list[float]) -> list[float]:
    """Mean over draws, and its 95 % interval."""
    mean, count = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return [round(mean, 4), round(mean - half, 4), round(mean + half, 4)]


if __name__ == "__main__":
    main()
