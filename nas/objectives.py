"""What a search optimises, as a function of an Arch: predictions from tables and priors."""

from dataclasses import dataclass
from typing import Protocol

from nas.front import Candidate
from predictors.accuracy import AccuracyPrediction, Prior
from predictors.latency import LatencyPredictor
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
            latency_extrapolated=latency.outside,
            accuracy_extrapolated=accuracy.extrapolated,
        )


def _as_written(value: float) -> float:
    """Six significant digits, as in front.csv: who dominates whom must not hang on others."""
    return float(f"{value:.6g}")


def describe_prior(prior: Prior) -> str:
    """One line: provenance and error of an accuracy prior."""
    names = len({row.name for row in prior.residuals})
    return (
        f"{prior.provenance}, a scaling law on {len(prior.residuals)} figures of {names} networks, "
        f"error {prior.arch_mae:.2f} points on average on networks left out, std {prior.std:.2f} "
        "near them; blind to kernels, mixers, scales and local blocks"
    )
