"""What a search must keep to: limits on a candidate's numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.front import Candidate
from nas.objectives.objective import LATENCY, QUANTITIES, Objective, Quantity, measures_of
from results.errors import SearchError, check_choice

ACCURACY_STD = Quantity("accuracy std", "accuracy_std", "points", "error of the accuracy")


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on one of a candidate's numbers."""

    flag: str  # as typed, to name it in an error
    limit: float
    measure: Objective
    is_least: bool = False  # the number must be at least the limit, else at most

    @property
    def name(self) -> str:
        """Return the flag, with the device where there are several."""
        return f"{self.flag} {self.measure.device}" if self.measure.device else self.flag

    def typed(self, limit: float) -> str:
        """Return another limit as it is typed after the flag."""
        return f"{self.measure.device}={limit:g}" if self.measure.device else f"{limit:g}"

    @property
    def unit(self) -> str:
        """Return the unit of the limit."""
        return self.measure.quantity.unit

    def value(self, numbers: Any) -> Any:
        """Return what is limited: of one network, or of many."""
        return self.measure.value(numbers)

    def cost(self, numbers: Any) -> Any:
        """Return what is limited, negated where the limit is a least: the less the better."""
        return -self.value(numbers) if self.is_least else self.value(numbers)

    def is_broken(self, value: float) -> bool:
        """Tell whether a number is beyond the limit."""
        return value < self.limit if self.is_least else value > self.limit

    def excess(self, numbers: Any) -> Any:
        """Return by what share the limit is broken; 0 or less where it is kept to."""
        share = self.value(numbers) / self.limit - 1
        return -share if self.is_least else share


def budgets(
    limits: Mapping[str, float | Sequence[str] | None],
    devices: Sequence[str] = (),
    risk: float | None = None,
) -> tuple[Budget, ...]:
    """Return the limits that are set.

    Args:
        limits: by flag; those of latencies as typed, MS or DEVICE=MS.
        devices: names of several; (): there is one.

    Raises SearchError for one that is not positive, that contradicts another, or names no device.
    """
    measures = {quantity.flag: quantity for quantity in QUANTITIES.values()}
    measures[ACCURACY_STD.flag] = ACCURACY_STD
    kept: list[Budget] = []
    for flag, limit in limits.items():
        if limit is None:
            continue
        bound, _, name = flag.removeprefix("--").partition("-")
        own = measures_of(measures[name], devices, risk)
        of_each = (
            dict.fromkeys(own, limit)
            if isinstance(limit, float | int)
            else _by_device(flag, limit, own)
        )
        for measure, number in of_each.items():
            if not 0 < number < math.inf:
                raise SearchError(f"{flag} must be a positive number, not {number:g}")
            kept.append(Budget(flag, number, measure, is_least=bound == "min"))
    _check_consistent(kept)
    return tuple(kept)


def _by_device(
    flag: str, typed: Sequence[str], measures: Sequence[Objective]
) -> dict[Objective, float]:
    """Return limits of latencies by device; a bare number is one for all that are not named."""
    named = {measure.device: measure for measure in measures}
    found: dict[Objective, float] = {}
    bare: float | None = None
    for text in typed:
        name, equals, number = text.rpartition("=")
        limit = _number(flag, number)
        if not equals:
            if bare is not None:
                raise SearchError(f"{flag} is given twice, {bare:g} and {limit:g}; leave one out")
            bare = limit
            continue
        if not name or name not in named:
            if len(measures) == 1:
                raise SearchError(
                    f"{flag} {text} names a device, and there is one; {flag} {number}"
                )
            check_choice(flag.removeprefix("--"), name, list(named), SearchError)
        if named[name] in found:
            raise SearchError(f"{flag} {name} is given twice; leave one out")
        found[named[name]] = limit
    if bare is not None:
        found = dict.fromkeys(measures, bare) | found
    return found


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SearchError(
            f"{flag} takes milliseconds, or DEVICE=MS where there are several, not {text!r}"
        ) from None


def _check_consistent(limits: Sequence[Budget]) -> None:
    """Raise SearchError where no number keeps to two limits."""
    for low in limits:
        for high in limits:
            same = low.measure == high.measure and low.is_least and not high.is_least
            if same and low.limit > high.limit:
                of_device = f" of {low.measure.device}" if low.measure.device else ""
                raise SearchError(
                    f"{low.flag} {low.limit:g} and {high.flag} {high.limit:g}{of_device} exclude "
                    "each other; loosen one"
                )


def feasible(candidate: Candidate, limits: Sequence[Budget]) -> bool:
    """Tell whether a candidate keeps to all limits."""
    return all(limit.excess(candidate) <= 0 for limit in limits)


def is_latency(limit: Budget) -> bool:
    """Tell whether a limit is one of a latency."""
    return limit.measure.quantity is LATENCY
