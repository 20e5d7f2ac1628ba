"""What can be minimised, maximised, limited, shown and drawn of a network: one list for all."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from results.errors import SearchError, check_choice

MOST = 4  # objectives of a search
MEDIAN = 0.5


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of a network."""

    name: str  # as typed: --minimize latency
    field: str  # of a Candidate, and of many networks' Numbers
    unit: str
    words: str  # for headings and axes
    is_maximized: bool = False

    @property
    def flag(self) -> str:
        """Return the end of the flags that limit it: latency-ms of --max-latency-ms."""
        return self.field.replace("_", "-")


LATENCY = Quantity("latency", "latency_ms", "ms", "latency [ms per image]")
ACCURACY = Quantity("accuracy", "accuracy", "points", "accuracy", is_maximized=True)
QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        LATENCY,
        Quantity("energy", "energy_mj", "mJ", "energy [mJ per image]"),
        Quantity("memory", "memory_mb", "MB", "peak memory [MB]"),
        Quantity("params", "params_m", "M", "parameters [M]"),
        Quantity("macs", "macs_g", "G", "multiply-adds [G]"),
        ACCURACY,
    )
}
MINIMIZED, MAXIMIZED = (LATENCY.name,), (ACCURACY.name,)  # unless something else is asked for


@dataclass(frozen=True, slots=True)
class Objective:
    """A quantity that a search optimises or limits, of one device where it is a latency."""

    quantity: Quantity
    device: str = ""  # "": the only one
    place: int = 0  # of the device among those of the search
    quantile: float = MEDIAN  # of a predicted latency, that is not exceeded with this probability

    @property
    def is_maximized(self) -> bool:
        """Tell whether more is better."""
        return self.quantity.is_maximized

    @property
    def column(self) -> str:
        """Return its name in front.csv: latency_ms, latency_orin_ms, latency_orin_q90_ms."""
        parts = [self.device] if self.device else []
        if self.quantile != MEDIAN:
            parts.append(f"q{100 * self.quantile:g}")
        return "_".join([self.quantity.name, *parts, "ms"]) if parts else self.quantity.field

    @property
    def words(self) -> str:
        """Return what an axis is called, with its unit."""
        words = self.quantity.words
        if self.device:
            words = words.replace("latency", f"latency on {self.device}", 1)
        if self.quantile != MEDIAN:
            words = words.replace("latency", f"{100 * self.quantile:g} % quantile of latency", 1)
        return words

    def value(self, numbers: Any) -> Any:
        """Return the quantity of one network (a Candidate), or of many (Numbers)."""
        own = numbers.others[self.place - 1] if self.place else numbers
        value = getattr(own, self.quantity.field)
        if self.quantile == MEDIAN:
            return value
        return value + NormalDist().inv_cdf(self.quantile) * own.latency_std_ms

    def cost(self, numbers: Any) -> Any:
        """Return `value`, negated where more is better."""
        return -self.value(numbers) if self.is_maximized else self.value(numbers)


DEFAULT = (Objective(LATENCY), Objective(ACCURACY))


def objectives_of(
    minimize: Sequence[str], maximize: Sequence[str], devices: Sequence[str], risk: float | None
) -> tuple[Objective, ...]:
    """Return what --minimize, --maximize and --risk ask for, what is maximised last.

    A latency is one objective for each of `devices`, the names of several or ().

    Raises SearchError for a name that is none, in the wrong direction or twice, and for too many.
    """
    found: list[Objective] = []
    for flag, names, more in (("minimize", minimize, False), ("maximize", maximize, True)):
        for name in names:
            check_choice(flag, name, QUANTITIES, SearchError)
            if QUANTITIES[name].is_maximized != more:
                right = "minimize" if more else "maximize"
                raise SearchError(f"--{flag} {name} finds the worst networks; --{right} {name}")
            if names.count(name) > 1:
                raise SearchError(f"--{flag} {name} stands there twice; leave one out")
            found += measures_of(QUANTITIES[name], devices, risk)
    if len(found) > MOST:
        told = ", ".join(objective.column for objective in found)
        raise SearchError(
            f"{len(found)} objectives ({told}) are more than {MOST}, which nobody can survey; "
            "take fewer --device or --minimize"
        )
    return tuple(found)


def measures_of(
    quantity: Quantity, devices: Sequence[str], risk: float | None
) -> tuple[Objective, ...]:
    """Return a quantity as it is optimised and limited: a latency on each of several devices."""
    if quantity is not LATENCY:
        return (Objective(quantity),)
    quantile = MEDIAN if risk is None else risk
    names = devices or ("",)
    return tuple(Objective(quantity, name, place, quantile) for place, name in enumerate(names))
