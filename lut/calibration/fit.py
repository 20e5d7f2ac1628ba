"""Fit the physical latency model to published or measured latencies of whole networks.

The parameters are fitted in logarithms by least squares, each held by a prior, so that ten
points are enough and with fewer the prior takes over. What is reported is the error of
leaving out one whole architecture at a time (all its resolutions, tasks and heads), because
rows of one architecture say too much about each other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lut.agreement import kendall_tau
from lut.calibration.points import Point
from lut.roofline import Array, OpArrays, Roofline
from lut.terms import NetworkTerms, transferred_mb
from results.errors import TableError
from supernet.arch import format_resolution
from supernet.blocks import blocks_of

Chosen = npt.NDArray[np.bool_]
MODEL_ERROR = 0.03  # of a latency, as a fraction: what the model is expected to miss anyway
ORDERED_APART = 1.08  # pairs of latencies closer than this ratio have no order to keep


@dataclass(frozen=True, slots=True)
class Belief:
    """Log-normal prior of one parameter."""

    median: float
    sigma: float = 0.0  # of the logarithm; 0: the parameter is not fitted


Prior = Mapping[str, Belief]
# Of a class of devices, not of one. `conv_gmacs_per_s` is relative to the points' median of
# MACs per time, so that nobody needs to know how fast a device is.
_GPU: Prior = {
    "conv_gmacs_per_s": Belief(2.0, 1.0),
    "macs_per_byte": Belief(60.0, 0.7),
    "depthwise_speed": Belief(0.02, 0.7),
    "product_speed": Belief(1.0),
    "product_grain": Belief(0.0),
    "product_passes": Belief(3.0),
    "cache_mb": Belief(0.0),
    "launch_us": Belief(5.0, 0.7),
    "fixed_ms": Belief(0.0),
    "ms_per_mb": Belief(0.1, 0.7),
    "decoder_ms": Belief(0.5, 1.0),
}
PRIORS: dict[str, Prior] = {
    "cpu": {
        "conv_gmacs_per_s": Belief(1.0, 1.0),
        "macs_per_byte": Belief(2.0, 1.0),
        "depthwise_speed": Belief(0.7, 0.7),
        "product_speed": Belief(1.0),
        "product_grain": Belief(0.0),
        "product_passes": Belief(1.0),
        "cache_mb": Belief(8.0, 0.7),
        "launch_us": Belief(2.0, 0.5),
        "fixed_ms": Belief(0.0),
        "ms_per_mb": Belief(0.0),
        "decoder_ms": Belief(0.0),
    },
    "gpu": _GPU,
    # Matrix units speed up convolutions, not attention's products of 16 or 32 columns.
    "tensor_core_gpu": {
        **_GPU,
        "product_speed": Belief(0.05, 0.7),
        "product_grain": Belief(20e3, 1.0),
    },
}


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """One point beside what the model says of it."""

    point: Point
    fitted_ms: float  # by the model that knows all fitted points
    leave_out_ms: float  # by the model that knows none of this architecture

    @property
    def leave_out_error_percent(self) -> float:
        """Return how much too long the prediction without the architecture is, in percent."""
        return 100 * (self.leave_out_ms / self.point.latency_ms - 1)

    @property
    def excess_percent(self) -> float:
        """Return what is left of the absolute error once the published rounding is allowed for."""
        return max(0.0, abs(self.leave_out_error_percent) - 100 * self.point.rounding)

    def to_dict(self) -> dict[str, object]:
        """Return the row as a sidecar has it."""
        point = self.point
        return {
            "arch": point.name,
            "task": point.arch.task,
            "dataset": point.dataset,
            "resolution": format_resolution(point.arch.resolution),
            "batch": point.batch,
            "kind": point.kind,
            "fitted": point.fitted,
            "includes": point.includes,
            "published_ms": point.latency_ms,
            "rounding_percent": 100 * point.rounding,
            "fitted_ms": self.fitted_ms,
            "leave_out_ms": self.leave_out_ms,
            "leave_out_error_percent": self.leave_out_error_percent,
            "source": point.source,
            "notes": point.notes,
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """Leave-architecture-out errors of the fitted rows."""

    num_rows: int
    num_architectures: int
    mape_percent: float
    mape_beyond_rounding_percent: float
    worst_percent: float  # beyond rounding
    sigma: float  # root mean square of the logarithmic error: a prediction's relative std
    num_ordered_pairs: int  # pairs more than 8 % apart that keep their published order
    num_pairs: int
    kendall_tau: float  # 0 with fewer than two rows


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """What a fit finds."""

    roofline: Roofline
    terms: NetworkTerms  # with the mask decoder's time where it was timed


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted model beside what it was fitted to, and how wrong it is."""

    model: LatencyModel
    precision: str
    parameters: dict[str, float]  # those that were fitted
    rows: tuple[CalibrationRow, ...]  # in the points' order, fitted or only compared
    summary: Summary


def fit(points: Sequence[Point], precision: str, prior: Prior) -> Calibration:
    """Fit all parameters of `prior` with a sigma, and judge by leaving out architectures.

    Deterministic. Raises TableError if no point is of a kind that is fitted.
    """
    if not any(point.fitted for point in points):
        raise TableError("no point is of a kind to fit; set the column kind to table or measured")
    network = _Networks(points, precision)
    chosen = np.array([point.fitted for point in points])
    values = _fit(network, chosen, prior)
    fitted_ms = network.latency_ms(values)
    left_out_ms = _leave_out(network, chosen, prior)
    rows = tuple(
        CalibrationRow(point, float(a), float(b))
        for point, a, b in zip(points, fitted_ms, left_out_ms, strict=True)
    )
    free = {name: values[name] for name in _free(network, chosen, prior)}
    return Calibration(_model(values), precision, free, rows, summarise(rows))


def summarise(rows: Sequence[CalibrationRow]) -> Summary:
    """Judge the rows of fitted kinds by what is said of each without its architecture."""
    rows = [row for row in rows if row.point.fitted]
    logs = [math.log(row.leave_out_ms / row.point.latency_ms) for row in rows]
    kept = total = 0
    for index, a in enumerate(rows):
        for b in rows[:index]:
            ratio = a.point.latency_ms / b.point.latency_ms
            if max(ratio, 1 / ratio) > ORDERED_APART:
                total += 1
                kept += (ratio > 1) == (a.leave_out_ms > b.leave_out_ms)
    return Summary(
        num_rows=len(rows),
        num_architectures=len({row.point.backbone for row in rows}),
        mape_percent=sum(abs(row.leave_out_error_percent) for row in rows) / len(rows),
        mape_beyond_rounding_percent=sum(row.excess_percent for row in rows) / len(rows),
        worst_percent=max(row.excess_percent for row in rows),
        sigma=math.sqrt(sum(log * log for log in logs) / len(logs)),
        num_ordered_pairs=kept,
        num_pairs=total,
        kendall_tau=kendall_tau(
            [row.leave_out_ms for row in rows], [row.point.latency_ms for row in rows]
        ),
    )


class _Networks:
    """All points' operators in flat arrays, so that one evaluation of the model is quick."""

    def __init__(self, points: Sequence[Point], precision: str) -> None:
        networks = [blocks_of(point.arch) for point in points]
        self.precision = precision
        self.backbones = [point.backbone for point in points]
        self.ops = OpArrays.of([block for blocks in networks for block in blocks])
        lengths = [len(OpArrays.of(blocks).weights) for blocks in networks]
        self.starts = np.cumsum([0, *lengths[:-1]])
        self.batch = np.array([point.batch for point in points], dtype=np.float64)
        self.op_batch = np.repeat(self.batch, lengths)
        self.transferred_mb = np.array([transferred_mb(blocks) for blocks in networks])
        self.decoders = np.array([point.includes == "mask_decoder" for point in points])
        self.published_ms = np.array([point.latency_ms for point in points])
        macs = self.ops.conv_macs + self.ops.depthwise_macs
        macs = macs + self.ops.product_depth * self.ops.product_results
        self.gmacs_per_s = np.add.reduceat(macs, self.starts) / self.published_ms / 1e6
        rounding = np.array([point.rounding for point in points])
        # An error spread evenly over +-h has standard deviation h / sqrt(3).
        self.weights = 1 / np.sqrt(MODEL_ERROR**2 + rounding**2 / 3)

    def latency_ms(self, values: Mapping[str, float]) -> Array:
        """Return (points,) milliseconds per image."""
        model = _model(values)
        ops_ms = model.roofline.ops_ms(self.ops, self.op_batch, self.precision)
        total: Array = np.add.reduceat(ops_ms, self.starts)
        total = total + model.terms.fixed_ms / self.batch
        total = total + model.terms.ms_per_mb * self.transferred_mb
        return total + model.terms.decoder_ms * self.decoders


def _model(values: Mapping[str, float]) -> LatencyModel:
    rest = dict(values)
    names = ("fixed_ms", "ms_per_mb", "decoder_ms")
    terms = NetworkTerms(**{name: rest.pop(name) for name in names})
    return LatencyModel(Roofline(**rest), terms)


def _free(network: _Networks, chosen: Chosen, prior: Prior) -> list[str]:
    """Return the parameters to fit: not that of a decoder that was never timed."""
    decoder = bool(network.decoders[chosen].any())
    return [n for n, belief in prior.items() if belief.sigma and (decoder or n != "decoder_ms")]


def _fit(network: _Networks, chosen: Chosen, prior: Prior) -> dict[str, float]:
    from scipy.optimize import least_squares

    rate = float(np.median(network.gmacs_per_s[chosen]))
    centre = {name: belief.median for name, belief in prior.items()}
    centre["conv_gmacs_per_s"] *= rate
    free = _free(network, chosen, prior)
    if "decoder_ms" not in free:
        centre["decoder_ms"] = 0.0
    start = np.log([centre[name] for name in free])
    sigma = np.array([prior[name].sigma for name in free])

    def values(x: Array) -> dict[str, float]:
        return centre | dict(zip(free, np.exp(x).tolist(), strict=True))

    def residuals(x: Array) -> Array:
        error = np.log(network.latency_ms(values(x)) / network.published_ms)
        return np.concatenate([(error * network.weights)[chosen], (x - start) / sigma])

    bounds = (start - 12, start + 12)
    return values(least_squares(residuals, start, bounds=bounds, x_scale=sigma).x)


def _leave_out(network: _Networks, chosen: Chosen, prior: Prior) -> Array:
    left_out_ms = np.zeros(len(network.backbones))
    for backbone in dict.fromkeys(network.backbones):
        inside = np.array([other == backbone for other in network.backbones])
        others = chosen & ~inside
        if not others.any():
            raise TableError("all points are of one architecture; add points of another")
        left_out_ms[inside] = network.latency_ms(_fit(network, others, prior))[inside]
    return left_out_ms
