"""Which candidates no other beats."""

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Scored(Protocol):
    """What is less the better, and what is more the better."""

    @property
    def latency_ms(self) -> float:
        """Return milliseconds per image."""
        ...

    @property
    def accuracy(self) -> float:
        """Return points of the metric."""
        ...


S = TypeVar("S", bound=Scored)


def pareto_front(candidates: Iterable[S]) -> list[S]:
    """Return the candidates that no other beats in both latency and accuracy, fastest first.

    Of candidates equal in both, the first is kept. O(n log n): walking from fast to slow, a
    candidate is on the front iff it is more accurate than all before it.
    """
    front: list[S] = []
    for candidate in sorted(candidates, key=lambda c: (c.latency_ms, -c.accuracy)):
        if not front or candidate.accuracy > front[-1].accuracy:
            front.append(candidate)
    return front


def best_within(front: Iterable[S], latency_ms: float) -> S | None:
    """Return the most accurate candidate that takes at most `latency_ms`; None if none does."""
    return max(
        (c for c in front if c.latency_ms <= latency_ms), key=lambda c: c.accuracy, default=None
    )
