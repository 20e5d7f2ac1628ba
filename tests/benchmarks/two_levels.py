"""What few networks trained alone tell of others, beside what these inherit from a supernet.

python -m tests.benchmarks.two_levels

From the figures of `weight_sharing` (results/benchmarks/weight_sharing.json): 24 networks, each
trained alone from three seeds, and the accuracy that each inherits from supernets of several
recipes. Every draw takes one supernet and one seed, fits the second level to one training each of
6, 12 or 18 networks, and predicts the others. Held against are the means of the two other seeds;
for the share in 90 % intervals, each of those two trainings. The ceiling is how well the training
from the drawn seed, of the held-out networks themselves, tells the mean of the other two.

The inherited accuracy is here evaluated, not predicted by a first level: its error is left out.
Draws share their 24 networks, so the range of draws is wider than that of their mean.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from predictors import second_level
from predictors.second_level import Linear, choose_linear, fit_linear, fit_second_level
from predictors.worth import Array
from tests.benchmarks.record import write_record

SOURCE = Path(__file__).parents[2] / "results" / "benchmarks" / "weight_sharing.json"
SIZES, DRAWS = (6, 12, 18), 200
RECIPES = ("2,000 steps", "3,000 steps", "own normalisation for each width, 2,000 steps")
NORMAL = second_level.NORMAL


@dataclass(frozen=True)
class Networks:
    """What is known of the networks of weight_sharing."""

    sizes: Array  # log2 of MACs and parameters, (networks, 2)
    alone: Array  # accuracies trained alone, (networks, seeds)
    inherited: dict[str, Array]  # by recipe, (networks, supernets)


def main() -> None:
    source = json.loads(SOURCE.read_text())
    networks = read(source["archs"])
    fields = {
        "source": {"file": SOURCE.name, "commit": source["commit"], "date": source["date"]},
        "num_networks": len(networks.alone),
        "draws": DRAWS,
        "recipes": {
            recipe: {str(count): judged(networks, recipe, count) for count in SIZES}
            for recipe in RECIPES
        },
        "other choices": {
            name: {
                "6 networks, 2,000 steps": chosen_so(networks, RECIPES[0], choose),
                "6 networks, 3,000 steps": chosen_so(networks, RECIPES[1], choose),
                "6 networks, made up": made_up(6, choose),
                "12 networks, made up": made_up(12, choose),
            }
            for name, choose in choices().items()
        },
    }
    print(json.dumps(write_record("two_levels", fields), indent=2))


def read(archs: list[dict[str, Any]]) -> Networks:
    return Networks(
        sizes=np.log2([[arch["macs_m"], arch["params_m"]] for arch in archs]),
        alone=np.array([arch["alone"] for arch in archs]),
        inherited={name: np.array([arch["inherited"][name] for arch in archs]) for name in RECIPES},
    )


def drawn(networks: Networks, recipe: str, count: int) -> Any:
    """Yield features, the numbers of fitted and held-out networks, and the seed of a draw."""
    rng = np.random.default_rng(count)
    for _ in range(DRAWS):
        order = rng.permutation(len(networks.alone))
        supernet = rng.integers(networks.inherited[recipe].shape[1])
        seed = int(rng.integers(networks.alone.shape[1]))
        x = np.column_stack([networks.inherited[recipe][:, supernet], networks.sizes])
        yield x, order[:count], order[count:], seed


def judged(networks: Networks, recipe: str, count: int) -> dict[str, Any]:
    """Means and ranges over draws, of all that is said of two levels and beside them."""
    found: list[dict[str, float]] = []
    for x, fitted, held, seed in drawn(networks, recipe, count):
        values, others = networks.alone[fitted, seed], np.delete(networks.alone[held], seed, axis=1)
        truth, inherited = others.mean(axis=1), x[held, 0]
        model = fit_second_level(x[fitted], values)
        means, stds = model.predict(x[held])
        half = NORMAL * stds[:, None]
        offset = float(np.mean(values - x[fitted, 0]))
        tau, of_inherited = tau_of(means, truth), tau_of(inherited, truth)
        found.append(
            {
                "tau": tau,
                "tau_inherited": of_inherited,
                "tau_gain": tau - of_inherited,
                "tau_ceiling": tau_of(networks.alone[held, seed], truth),
                "mae": mae(means, truth),
                "mae_inherited": mae(inherited, truth),
                "mae_inherited_and_offset": mae(inherited + offset, truth),
                "mae_guess": mae(np.full(len(held), values.mean()), truth),
                "mae_ceiling": mae(networks.alone[held, seed], truth),
                "within_90": float(np.mean(np.abs(others - means[:, None]) <= half)),
                "half_width_90": float(half.mean()),
                "sizes_count": float(len(model.fit.columns) > 1),
                "refused": float(not model.fit.columns),
            }
        )
    return {name: spread([draw[name] for draw in found]) for name in found[0]}


def choices() -> dict[str, Callable[[Array, Array], Linear]]:
    """Return other ways to choose what counts, by what they do."""
    return {
        "as it is": choose_linear,
        "inherited accuracy alone": partial(choose_with, np.inf),
        **{
            f"a size from {clearly} on": partial(choose_with, clearly)
            for clearly in (0.0, 1.0, 1.5, 2.0)
        },
        "a mean wherever better": mean_allowed,
    }


def choose_with(clearly: float, x: Array, values: Array) -> Linear:
    kept = second_level.CLEARLY
    second_level.CLEARLY = clearly
    try:
        return choose_linear(x, values)
    finally:
        second_level.CLEARLY = kept


def mean_allowed(x: Array, values: Array) -> Linear:
    chosen, mean = choose_linear(x, values), fit_linear(x, values)
    return mean if mean.mean_square < chosen.mean_square else chosen


def chosen_so(networks: Networks, recipe: str, choose: Any) -> dict[str, float]:
    """Tau and mean error on held-out networks, of fits to six."""
    taus, errors = [], []
    for x, fitted, held, seed in drawn(networks, recipe, 6):
        truth = np.delete(networks.alone[held], seed, axis=1).mean(axis=1)
        means = choose(x[fitted], networks.alone[fitted, seed]).predict(x[held])
        taus.append(tau_of(means, truth))
        errors.append(mae(means, truth))
    return {"tau": float(np.mean(taus)), "mae": float(np.mean(errors))}


def made_up(count: int, choose: Any) -> dict[str, float]:
    """Tau where sizes do turn the ranking of inherited accuracies around, over four octaves."""
    taus, without = [], []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        macs = rng.uniform(0, 4, count + 100)
        params = macs + rng.normal(0, 0.5, count + 100)
        inherited = 70 - 1.5 * macs + rng.normal(0, 3, count + 100)
        values = 0.6 * inherited + 3 * macs + rng.normal(0, 0.5, count + 100)
        x = np.column_stack([inherited, macs, params])
        means = choose(x[:count], values[:count]).predict(x[count:])
        taus.append(tau_of(means, values[count:]))
        without.append(tau_of(inherited[count:], values[count:]))
    return {"tau": float(np.mean(taus)), "tau_inherited": float(np.mean(without))}


def tau_of(scores: Array, truth: Array) -> float:
    """Kendall's tau; 0 where all scores are equal, which rank nothing."""
    found = float(kendalltau(scores, truth).statistic)
    return 0.0 if np.isnan(found) else found


def mae(predicted: Array, truth: Array) -> float:
    return float(np.abs(predicted - truth).mean())


def spread(values: list[float]) -> dict[str, Any]:
    low, high = np.percentile(values, [2.5, 97.5])
    return {"mean": float(np.mean(values)), "range_95": [float(low), float(high)]}


if __name__ == "__main__":
    main()
