"""The front against its definition."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from nas.pareto import best_within, pareto_front


@dataclass(frozen=True)
class Point:
    latency_ms: float
    accuracy: float


small = st.integers(0, 12).map(float)  # few values, so that ties are common
points = st.lists(st.builds(Point, small, small), max_size=40)


def dominates(a, b):
    no_worse = a.latency_ms <= b.latency_ms and a.accuracy >= b.accuracy
    return no_worse and (a.latency_ms, a.accuracy) != (b.latency_ms, b.accuracy)


@given(points)
def test_front_is_the_non_dominated_set(found):
    front = pareto_front(found)
    expected = {
        (c.latency_ms, c.accuracy) for c in found if not any(dominates(o, c) for o in found)
    }
    assert [(c.latency_ms, c.accuracy) for c in front] == sorted(expected)


@given(points, small)
def test_best_within_is_the_most_accurate_that_is_fast_enough(found, limit):
    best = best_within(found, limit)
    within = [c.accuracy for c in found if c.latency_ms <= limit]
    assert (best.accuracy if best else None) == (max(within) if within else None)
