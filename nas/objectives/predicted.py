"""What a search optimises, as a function of an Arch: predictions from tables and priors."""

from dataclasses import dataclass
from typing import Any

from nas.front import Candidate
from nas.objectives.sources import AccuracySource, NoAccuracy
from predictors.latency import LatencyPredictor
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import memory_mb, network_cost


@dataclass(frozen=True)
class Predicted:
    """Evaluates an Arch by a latency table and an accuracy predictor."""

    latency: LatencyPredictor
    accuracy: AccuracySource | NoAccuracy

    def __call__(self, arch: Arch) -> Candidate:
        """Return all numbers of an Arch."""
        accuracy = self.accuracy.predict(arch)
        return Candidate(
            arch,
            accuracy=as_written(accuracy.mean),
            accuracy_std=as_written(accuracy.std),
            accuracy_extrapolated=accuracy.extrapolated,
            accuracy_transferred=accuracy.transferred,
            **predict_costs(self.latency, arch),
        )


def predict_costs(predictor: LatencyPredictor, arch: Arch) -> dict[str, Any]:
    """Return all of a Candidate but its accuracy: what `arch` takes on the device, by field."""
    blocks = blocks_of(arch)
    latency = predictor.predict(blocks)
    cost = network_cost(blocks)
    table = predictor.table
    return {
        "latency_ms": as_written(latency.latency_ms),
        "latency_std_ms": as_written(latency.std_ms),
        "params_m": cost.params / 1e6,
        "macs_g": cost.macs / 1e9,
        "memory_mb": memory_mb(blocks, table.batch, table.precision),
        "latency_extrapolated": latency.outside,
    }


def as_written(value: float) -> float:
    """Round to six digits, as in front.csv: who dominates whom must not hang on others."""
    return float(f"{value:.6g}")
