"""What a search optimises and what it must keep to, as functions of an Arch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nas.front import Candidate
from predictors.accuracy import AccuracyPrediction, Prior
from predictors.latency import LatencyPredictor
from results.errors import SearchError
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import memory_mb, network_cost


class AccuracyPredictor(Protocol):
    def predict(self, arch: Arch) -> AccuracyPrediction: ...


@dataclass(frozen=True)
class Predicted:
    """Evaluates an Arch by a latency table and an accuracy predictor."""

    latency: LatencyPredictor
    accuracy: AccuracyPredictor

    def __call__(self, arch: Arch) -> Candidate:
        blocks = blocks_of(arch)
        latency = self.latency.predict(blocks)
        accuracy = self.accuracy.predict(arch)
        cost = network_cost(blocks)
        table = self.latency.table
        return Candidate(
            arch,
            latency_ms=_as_written(latency.latency_ms),
            latency_std_ms=_as_written(latency.std_ms),
            accuracy=_as_written(accuracy.mean),
            accuracy_std=_as_written(accuracy.std),
            params_m=cost.params / 1e6,
            macs_g=cost.macs / 1e9,
            memory_mb=memory_mb(blocks, table.batch, table.precision),
            extrapolated=latency.outside or accuracy.extrapolated,
        )


def _as_written(value: float) -> float:
    """Six significant digits, as in front.csv: who dominates whom must not hang on others."""
    return float(f"{value:.6g}")


def describe_prior(prior: Prior) -> str:
    """One line: provenance and error of an accuracy prior."""
    names = len({row.name for row in prior.residuals})
    return (
        f"{prior.provenance}, a scaling law on {len(prior.residuals)} figures of {names} networks, "
        f"error {prior.arch_mae:.2f} points on networks left out; blind to kernels, mixers, "
        "scales and local blocks"
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on one of a candidate's numbers."""

    flag: str  # as typed, to name it in an error
    limit: float
    unit: str
    value: Callable[[Candidate], float]

    def excess(self, candidate: Candidate) -> float:
        """Positive where the limit is broken, relative to it."""
        return self.value(candidate) / self.limit - 1


# By the name of the flag that sets the limit.
BUDGETS: dict[str, tuple[str, Callable[[Candidate], float]]] = {
    "max_latency_ms": ("ms", lambda c: c.latency_ms),
    "max_params_m": ("M", lambda c: c.params_m),
    "max_macs_g": ("G", lambda c: c.macs_g),
    "max_memory_mb": ("MB", lambda c: c.memory_mb),
    "max_accuracy_std": ("points", lambda c: c.accuracy_std),
}


def budgets(flags: object) -> tuple[Budget, ...]:
    """The limits that `flags` sets. Raises SearchError for one that is not positive."""
    limits = []
    for name, (unit, value) in BUDGETS.items():
        limit = getattr(flags, name)
        flag = "--" + name.replace("_", "-")
        if limit is not None and not 0 < limit < math.inf:
            raise SearchError(f"{flag} must be a positive number, not {limit:g}")
        if limit is not None:
            limits.append(Budget(flag, limit, unit, value))
    return tuple(limits)


def feasible(candidate: Candidate, limits: tuple[Budget, ...]) -> bool:
    return all(limit.excess(candidate) <= 0 for limit in limits)
