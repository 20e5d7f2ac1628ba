"""The feasibility check against going through a whole space."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.engine.feasibility import descend, starting_points
from nas.objectives.budgets import Budget
from results.errors import SearchError
from tests.test_study import TINY, evaluate

EVERY = [evaluate(arch) for arch in TINY.enumerate()]
FASTEST = min(c.latency_ms for c in EVERY)


def limit(ms):
    return Budget("--max-latency-ms", ms, "ms", lambda c: c.latency_ms)


def test_the_fastest_is_the_fastest_of_the_space():
    (arch,) = starting_points(TINY, evaluate, ())
    assert evaluate(arch).latency_ms == FASTEST


def test_a_budget_is_impossible_exactly_where_no_arch_keeps_to_it():
    starting_points(TINY, evaluate, (limit(FASTEST),))
    with pytest.raises(SearchError, match=f"the smallest has {FASTEST:.4g} ms") as caught:
        starting_points(TINY, evaluate, (limit(math.nextafter(FASTEST, 0)),))
    cure = float(str(caught.value).split()[-1])
    assert FASTEST <= cure <= FASTEST * 1.01


def test_of_two_budgets_one_arch_keeps_to_both():
    slow_but_small = Budget("--max-params", 30.0, "", lambda c: c.accuracy)
    limits = (limit(7.0), slow_but_small)
    joint = evaluate(starting_points(TINY, evaluate, limits)[-1])
    assert joint.latency_ms <= 7.0
    assert joint.accuracy <= 30.0


@given(st.integers(-50, 50), st.integers(-50, 50))
def test_descent_finds_the_minimum_of_a_convex_function(start, target):
    found = descend(start, lambda x: float((x - target) ** 2), lambda x: (x - 1, x + 1))
    assert found == target
