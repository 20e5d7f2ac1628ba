"""The best network within what another costs."""

from hypothesis import given
from hypothesis import strategies as st

from nas.front import Candidate
from nas.objectives.objective import LATENCY, QUANTITIES, Objective
from nas.pareto import best_within
from supernet.official import named_arch

ARCH = named_arch("b0")
COSTS = (Objective(LATENCY), Objective(QUANTITIES["memory"]))
small = st.integers(1, 12).map(float)  # few values, so that ties are common
candidates = st.builds(
    lambda ms, accuracy, mb: Candidate(ARCH, ms, 0.0, accuracy, 0.0, 1.0, 1.0, mb),
    small, small, small,
)  # fmt: skip


@given(st.lists(candidates, max_size=40), candidates)
def test_best_within_is_the_most_accurate_that_costs_no_more(found, other):
    best = best_within(found, other, COSTS)
    within = [
        c.accuracy
        for c in found
        if c.latency_ms <= other.latency_ms and c.memory_mb <= other.memory_mb
    ]
    assert (best.accuracy if best else None) == (max(within) if within else None)
