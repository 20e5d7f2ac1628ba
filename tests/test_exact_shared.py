"""The least regret of two devices beside all networks of slices of spaces, one after the other."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from nas.exact.shared import Levels, least_regrets
from predictors.batch import Batch
from predictors.latency import choose_predictor
from tests.test_exact import CASES, MOST, drawn, limited

OTHERS = {  # second devices; a table without peaks beside one with, and the other way round
    "family": "snapdragon8gen1", "b": "example-cpu", "peaks": "orin", "cityscapes": "a100",
    "five stages": "jetson-nano",
}  # fmt: skip
NUM_LEVELS = 30


def two_devices(name, seed, limit):
    """Return a problem of two devices, and ms on both and accuracies of all that keep to limits."""
    case = "phone" if name == "b" else name
    problem, genes = drawn(case, seed)
    problem = limited(problem, genes, limit)
    dataset = CASES[case][2]
    problem = replace(problem, other=choose_predictor(OTHERS[name], None, dataset)[1])
    ms, accuracy, kept = problem.evaluate(genes)
    other_ms = problem.other.judge(Batch(problem.space, genes, problem.components))[0]
    return problem, np.stack([ms, other_ms])[:, kept], accuracy[kept]


def levels_of(ms, accuracy):
    """Return levels of accuracy with the true least regrets, found by going through all."""
    levels = np.linspace(accuracy.min(), accuracy.max() - 1e-6, NUM_LEVELS)
    own_ms = np.array([ms[:, accuracy >= level].min(axis=1) for level in levels]).T
    regrets = [
        (ms[:, accuracy >= level] / own[:, None]).max(axis=0).min() - 1
        for level, own in zip(levels, own_ms.T, strict=True)
    ]
    return Levels(levels, own_ms, np.array(regrets))


@pytest.mark.parametrize(
    ("name", "limit"),
    [*product(OTHERS, ("free", "distance")), ("peaks", "memory"), ("peaks", "latency")],
)
def test_it_is_that_of_all_networks(name, limit):
    problem, ms, accuracy = two_devices(name, 0, limit)
    levels = levels_of(ms, accuracy)
    assert levels.regrets.max() > 5e-4  # the devices do not agree
    for worse in (1.1 * levels.regrets + 0.05, levels.regrets + 1e-6):  # the best are at a limit
        found = least_regrets(problem, replace(levels, regrets=worse), most_states=MOST)
        assert found.is_decided.all()
        assert found.regrets == pytest.approx(levels.regrets, rel=1e-9, abs=1e-9)


def test_nothing_is_better_than_the_least():
    problem, ms, accuracy = two_devices("family", 1, "free")
    levels = levels_of(ms, accuracy)
    found = least_regrets(problem, levels, most_states=MOST)
    assert found.is_decided.all()
    assert found.regrets == pytest.approx(levels.regrets, abs=1e-9)
    # Below the truth nothing is found, and what was given stands.
    below = replace(levels, regrets=levels.regrets - 0.01)
    assert np.array_equal(least_regrets(problem, below, most_states=MOST).regrets, below.regrets)


def test_levels_that_too_much_is_left_of_are_told():
    problem, ms, accuracy = two_devices("family", 1, "free")
    levels = levels_of(ms, accuracy)
    worse = replace(levels, regrets=levels.regrets + 0.2)
    num_decided = []
    for most_states in (0, 30, 1000, MOST):
        found = least_regrets(problem, worse, most_states=most_states)
        decided = found.is_decided
        assert found.regrets[decided] == pytest.approx(levels.regrets[decided], abs=1e-9)
        assert np.all(found.regrets >= levels.regrets - 1e-9)
        num_decided.append(decided.sum())
    assert num_decided[0] < num_decided[-1] == NUM_LEVELS
    assert sorted(num_decided) == num_decided
