"""The feasibility check against going through a whole space."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.engine.feasibility import descend, starting_points
from nas.objectives.budgets import Budget
from nas.objectives.objective import ACCURACY, LATENCY, Objective
from results.errors import SearchError
from tests.test_study import TINY, evaluate


def numbers(genes):
    found = [evaluate(TINY.decode(row)) for row in genes.tolist()]
    fields = ("latency_ms", "accuracy")
    return SimpleNamespace(**{f: np.array([getattr(c, f) for c in found]) for f in fields})


EVERY = [evaluate(arch) for arch in TINY.enumerate()]
FASTEST = min(c.latency_ms for c in EVERY)


def limit(ms):
    return Budget("--max-latency-ms", ms, Objective(LATENCY))


def test_the_fastest_is_the_fastest_of_the_space():
    (arch,) = starting_points(TINY, numbers, ())
    assert evaluate(arch).latency_ms == FASTEST


def test_a_budget_is_impossible_exactly_where_no_arch_keeps_to_it():
    starting_points(TINY, numbers, (limit(FASTEST),))
    with pytest.raises(SearchError, match=f"the smallest has {FASTEST:.4g} ms") as caught:
        starting_points(TINY, numbers, (limit(math.nextafter(FASTEST, 0)),))
    cure = float(str(caught.value).split()[-1])
    assert FASTEST <= cure <= FASTEST * 1.01


def test_of_two_budgets_one_arch_keeps_to_both():
    slow_but_small = Budget("--max-accuracy", 30.0, Objective(ACCURACY))
    limits = (limit(7.0), slow_but_small)
    joint = evaluate(starting_points(TINY, numbers, limits)[-1])
    assert joint.latency_ms <= 7.0
    assert joint.accuracy <= 30.0


def test_a_least_is_impossible_exactly_where_no_arch_reaches_it():
    most = max(c.accuracy for c in EVERY)
    starting_points(TINY, numbers, (Budget("--min-accuracy", most, Objective(ACCURACY), True),))
    beyond = Budget("--min-accuracy", math.nextafter(most, 100), Objective(ACCURACY), True)
    with pytest.raises(SearchError, match=f"the largest has {most:.4g} points") as caught:
        starting_points(TINY, numbers, (beyond,))
    cure = float(str(caught.value).split()[-1])
    assert 0.99 * most <= cure <= most


@given(st.integers(-50, 50), st.integers(-50, 50))
def test_descent_finds_the_minimum_of_a_convex_function(start, target):
    found = descend(
        np.array([start]),
        lambda x: ((x[:, 0] - target) ** 2).astype(float),
        lambda x: np.array([x - 1, x + 1]),
    )
    assert found == target
