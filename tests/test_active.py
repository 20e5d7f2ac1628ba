"""The choice of what to evaluate: gains against integrals by hand, batches against a slow twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.active import (
    Points,
    Reference,
    choose,
    expected_gains,
    hypervolume,
    on_front,
    reference_of,
)

grid = st.integers(0, 8).map(float)  # few numbers, so that ties are common
pairs = st.lists(st.tuples(grid, grid), max_size=8)
deviations = st.sampled_from([0.0, 0.1, 1.0, 5.0])
candidates = st.lists(st.tuples(grid, grid, deviations), min_size=1, max_size=8)


def points(found):
    return Points(*np.array(list(found), dtype=float).reshape(-1, 2).T)


def split(found):
    array = np.array(found)
    return Points(array[:, 0], array[:, 1]), array[:, 2]


def by_cells(found, reference):
    """Count the unit squares that some point covers."""
    return sum(
        any(cost <= x and value >= y + 1 for cost, value in found)
        for x in range(int(reference.cost))
        for y in range(int(reference.value), 9)
    )


@given(pairs, grid, grid)
def test_hypervolume_is_the_area_that_points_cover(found, cost, value):
    reference = Reference(cost, value)
    assert hypervolume(points(found), reference) == by_cells(found, reference)


@given(pairs)
def test_the_front_is_what_nothing_beats(found):
    front = on_front(points(found))
    beaten = {p for p in found for q in found if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert [found[i] for i in front] == sorted(set(found) - beaten)


@pytest.mark.parametrize("seed", range(6))
def test_expected_gains_are_those_of_many_draws(seed):
    rng = np.random.default_rng(seed)
    evaluated = Points(rng.uniform(0, 4, 5 * (seed > 0)), rng.uniform(60, 80, 5 * (seed > 0)))
    reference = Reference(3.8, 62.0)
    cost, mean, std = rng.uniform(0, 4), rng.uniform(65, 82), rng.uniform(0.2, 5)
    before = hypervolume(evaluated, reference)
    drawn = [
        hypervolume(evaluated.with_one(cost, value), reference) - before
        for value in rng.normal(mean, std, 3000)
    ]
    one = Points(np.array([cost]), np.array([mean]))
    (found,) = expected_gains(one, np.array([std]), evaluated, reference)
    assert found == pytest.approx(np.mean(drawn), abs=5 * np.std(drawn) / np.sqrt(3000) + 1e-6)
    (certain,) = expected_gains(one, np.zeros(1), evaluated, reference)
    assert certain == pytest.approx(hypervolume(evaluated.with_one(cost, mean), reference) - before)


@given(candidates, pairs, grid, grid)
def test_a_longer_front_leaves_less_to_gain(found, known, cost, value):
    offered, stds = split(found)
    evaluated, reference = points(known), Reference(7.5, 0.5)
    before = expected_gains(offered, stds, evaluated, reference)
    after = expected_gains(offered, stds, evaluated.with_one(cost, value), reference)
    wider = expected_gains(offered, stds + 1, evaluated, reference)
    assert np.all(after >= 0)
    assert np.all(after <= before + 1e-9)
    assert np.all(wider >= before - 1e-9)


def slow_choice(offered, stds, evaluated, count):
    """Every gain anew after every choice; what is as good to the last digits is as good."""
    reference = reference_of(offered.with_all(evaluated))
    values = []
    left = list(range(len(stds)))
    for _ in range(count):
        gains = expected_gains(offered, stds, evaluated, reference)
        best = max(left, key=lambda i: gains[i])
        values.append(gains[best])
        left.remove(best)
        evaluated = evaluated.with_one(offered.costs[best], offered.values[best])
    return values


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(0, 30), st.integers(0, 20))
def test_a_batch_is_the_greedy_one(seed, offered, known, count):
    rng = np.random.default_rng(seed)
    candidates = Points(rng.uniform(0, 3, offered), rng.normal(70, 4, offered))
    stds = rng.choice([0.0, 0.3, 2.0], offered)
    evaluated = Points(rng.uniform(0, 3, known), rng.normal(72, 4, known))
    count = min(count, offered)
    found = choose(candidates, stds, evaluated, count)
    assert len(set(found)) == len(found) == count
    reference = reference_of(candidates.with_all(evaluated))
    gains = []
    for index in found:
        gains.append(expected_gains(candidates, stds, evaluated, reference)[index])
        evaluated = evaluated.with_one(candidates.costs[index], candidates.values[index])
    known_before = Points(evaluated.costs[:known], evaluated.values[:known])
    assert gains == pytest.approx(slow_choice(candidates, stds, known_before, count), abs=1e-9)


def test_what_falls_short_by_least_is_next_where_nothing_gains():
    evaluated = Points(np.array([0.0]), np.array([90.0]))
    offered = Points(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0]))
    assert choose(offered, np.full(3, 0.01), evaluated, 3) == [1, 2, 0]
    assert choose(offered, np.array([0.01, 0.01, 0.02]), evaluated, 3) == [2, 1, 0]
    many = Points(np.linspace(1, 2, 500), np.linspace(10, 20, 500))
    assert choose(many, np.zeros(500), evaluated, 500) == list(range(499, -1, -1))
