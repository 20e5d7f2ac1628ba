"""What a search optimises, as a function of an Arch: predictions from tables and priors."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from nas.front import Candidate, DeviceLatency
from nas.objectives.sources import AccuracySource, NoAccuracy
from predictors.latency import LatencyPredictor
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import memory_mb, network_cost


@dataclass(frozen=True)
class Predicted:
    """Evaluates an Arch by latency tables, one for each device, and an accuracy predictor."""

    latencies: Sequence[LatencyPredictor]
    accuracy: AccuracySource | NoAccuracy
    with_energy: bool = False

    def __call__(self, arch: Arch) -> Candidate:
        """Return all numbers of an Arch.

        Raises SearchError where its energy is asked for and a block's was not measured.
        """
        accuracy = self.accuracy.predict(arch)
        first, *others = self.latencies
        costs = predict_costs(first, arch)
        further = [predict_costs(latency, arch) for latency in others]
        costs["memory_mb"] = max(own["memory_mb"] for own in (costs, *further))
        if self.with_energy:
            energy_mj = first.table.network_energy_mj(blocks_of(arch))
            costs["energy_mj"] = None if energy_mj is None else as_written(energy_mj)
        return Candidate(
            arch,
            accuracy=as_written(accuracy.mean),
            accuracy_std=as_written(accuracy.std),
            accuracy_extrapolated=accuracy.extrapolated,
            accuracy_transferred=accuracy.transferred,
            others=tuple(_latency_of(own) for own in further),
            **costs,
        )


def _latency_of(costs: dict[str, Any]) -> DeviceLatency:
    return DeviceLatency(**{field.name: costs[field.name] for field in fields(DeviceLatency)})


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
