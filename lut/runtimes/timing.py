"""How often the models of a session are timed, and what a tool tells of one of them."""

import math
from dataclasses import dataclass

from results.errors import TargetError


@dataclass(frozen=True, slots=True)
class Passes:
    """Which passes over all models a session makes; each has an order of its own."""

    count: int
    first: int = 0  # its number, from which its order comes, with the seed
    seed: int = 0


@dataclass(frozen=True)
class Timing:
    """Microseconds of one run. What the tool did not tell is None."""

    count: int
    mean_us: float
    min_us: float
    std_us: float | None
    median_us: float | None = None
    notes: tuple[str, ...] = ()  # what makes the number doubtful, for people
    samples_us: tuple[float, ...] = ()  # every run, where the tool tells

    def __post_init__(self) -> None:
        """Raises TargetError for numbers that are no times."""
        if self.count < 1:
            raise TargetError(f"a timing of {self.count} runs")
        for name in ("mean_us", "min_us", "median_us"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise TargetError(f"a timing whose {name} is {value}")
        if self.std_us is not None and not (math.isfinite(self.std_us) and self.std_us >= 0):
            raise TargetError(f"a timing whose std_us is {self.std_us}")
        # Tools print six significant digits.
        if self.min_us > 1.0001 * min(self.mean_us, self.median_us or math.inf):
            raise TargetError(
                f"a timing whose minimum {self.min_us:g} us is above its mean {self.mean_us:g} us "
                "or its median"
            )
