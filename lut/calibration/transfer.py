"""A table for a new device from the table of another and a few latencies of whole networks.

Every block keeps what is known of it on the other device, times how much slower the new device
is at what limits the block. Five factors say that, inside the physical model of `lut.roofline`:

    block_new = block_source * model(factors) / model(1)

They slow down the arithmetic of convolutions, of depthwise convolutions and of products of two
activations, memory traffic, and launches; neighbouring blocks move alike, and a calibrated
source's own model moves with its rows. Measured sources know what their kinds of block take
beyond physics, which gets factors too: of local blocks, token mixers and all others.

All factors equal is the one scale of the textbook. How far they may differ is a standard
deviation, `spread`, chosen by the error on architectures that the fit has not seen: 0, which is
the one scale, unless more pays.

A network's latency stays a sum over its blocks, which a power of the source's latency is not.
That a device gains or loses with size is left to launches, memory and the network's terms.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from lut.calibration.fit import (
    MODEL_ERROR,
    PRIORS,
    Calibration,
    CalibrationRow,
    Chosen,
    LatencyModel,
    Prior,
    summarise,
)
from lut.calibration.points import Point
from lut.roofline import Array, OpArrays, Roofline
from lut.rows import Entry
from lut.table import Table
from lut.terms import NetworkTerms, transferred_mb
from results.errors import TableError
from supernet.arch import LOCAL_KINDS, MIXER_KINDS, Arch
from supernet.blocks import Block, blocks_of
from supernet.cost import BYTES, network_cost

FACTORS = ("convolution", "depthwise", "product", "memory", "launch")
GROUPS: dict[str, str] = {  # of kinds of block; all others are "other_blocks"
    **dict.fromkeys(LOCAL_KINDS, "local_blocks"),
    **dict.fromkeys(MIXER_KINDS, "mixer_blocks"),
}
GROUP_NAMES = ("local_blocks", "mixer_blocks", "other_blocks")
SPREADS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)  # of a factor's logarithm around the scale's
WORTH = 0.95  # a wider spread must bring the error on unseen architectures below this share
FEWEST = 3  # architectures from which on a spread is chosen
MAX_FOLDS = 20  # more architectures than that are left out several at a time
OFFSET = 0.2  # share of a latency that a new offset takes at a spread of 1, as a prior
NO_SHARE = 1e-6  # of a latency: what the solver leaves of an offset that is at its bound of 0
STEP = 1e-4  # of a logarithm, in differences
SCALE_SIGMA = 10.0  # prior of the scale's logarithm: none
DECODER_SIGMA = 1.0  # prior of SAM's mask decoder, in logarithms, where it was timed
ROWS_OF_A_MODEL = 500  # of a table without a model of its own: enough to fit one to


@dataclass(frozen=True)
class Transfer:
    """What a transfer finds, and how wrong it is."""

    source: Table
    reference: Roofline  # the source's physics: its own model, or one fitted to its rows
    factors: Mapping[str, float]
    spread: float
    errors: Mapping[float, float]  # of each spread, in percent, on unseen architectures
    calibration: Calibration  # rows, summary and terms, as of a physical fit

    @property
    def terms(self) -> NetworkTerms:
        """Return what a network costs beyond its blocks on the new device."""
        return self.calibration.model.terms

    def entry(self, block: Block) -> Entry:
        """Return a block's entry on the new device. Raises TableError where the source lacks it."""
        batch, precision = self.source.batch, self.source.precision
        moved_ms = _slowed(self.reference, self.factors).block_ms(block, batch, precision)
        ratio = moved_ms / self.reference.block_ms(block, batch, precision)
        ratio *= self.factors.get(_group(block), 1.0)
        ms = float(f"{self.source.block_ms(block) * ratio:.6g}")
        std = float(f"{ms * self.calibration.summary.sigma:.6g}")
        return Entry(ms, std, 0, "calibrated")

    def roofline(self, precision: str) -> Roofline | None:
        """Return the source's own model on the new device, exact for blocks that no row lists."""
        if self.source.roofline is None:
            return None
        scale = self.source.terms.scale
        moved = _slowed(self.source.roofline, {n: scale * f for n, f in self.factors.items()})
        # The factors were found with the source's bytes, and the table will count its own.
        bytes_ratio = BYTES[precision] / BYTES[self.source.precision]
        return replace(
            moved,
            macs_per_byte=moved.macs_per_byte / bytes_ratio,
            cache_mb=moved.cache_mb * bytes_ratio,
        )


def transfer(points: Sequence[Point], source: Table, processor: str) -> Transfer:
    """Fit the factors to the points, and judge by leaving out architectures.

    Points of kinds that are only compared are predicted, not fitted. `processor` is whose
    physics to start from where the source has no model of its own. Deterministic.

    Raises TableError where no point is of a kind that is fitted, where all of them are of one
    architecture, where a batch is not the source's, and where the source lacks a block.
    """
    if not any(point.fitted for point in points):
        raise TableError("no point is of a kind to fit; set the column kind to table or measured")
    for point in points:
        if point.batch != source.batch:
            raise TableError(
                f"{point.name} was timed with batch {point.batch}, and {_name(source)} is of batch "
                f"{source.batch}; transfer the points of each batch from a table of that batch"
            )
    check_covered(points, source)
    network = _Networks(points, source, _reference(source, processor))
    chosen = np.array([point.fitted for point in points])
    folds = _folds([point.backbone for point in points], chosen)
    enough = sum(bool((fold & chosen).any()) for fold in folds) >= FEWEST
    spreads = SPREADS if enough else SPREADS[:1]
    left_out_ms = {spread: _leave_out(network, chosen, folds, spread) for spread in spreads}
    errors = {s: np.abs(np.log(ms / network.given_ms)) for s, ms in left_out_ms.items()}
    judged_ms = np.zeros(len(points))
    # A fold's spread is chosen on the other folds.
    for fold in folds:
        judged_ms[fold] = left_out_ms[_choose(errors, chosen & ~fold)][fold]
    spread = _choose(errors, chosen)
    values = network.values(_fit(network, chosen, spread), spread)
    rows = tuple(
        CalibrationRow(point, float(a), float(b))
        for point, a, b in zip(points, network.latency_ms(values), judged_ms, strict=True)
    )
    factors = network.factors(values)
    terms = network.terms(values)
    model = LatencyModel(_slowed(network.reference, factors), terms)
    parameters = {"scale": values["scale"]}
    if spread:
        parameters |= {f"{name}_factor": factor for name, factor in factors.items()}
        parameters |= {"fixed_ms": terms.fixed_ms, "ms_per_mb": terms.ms_per_mb}
    return Transfer(
        source,
        network.reference,
        factors,
        spread,
        {
            s: 100 * float(np.mean(np.abs(ms / network.given_ms - 1)[chosen]))
            for s, ms in left_out_ms.items()
        },
        Calibration(model, source.precision, parameters, rows, summarise(rows)),
    )


def check_covered(points: Sequence[Point], source: Table) -> None:
    """Raise TableError, naming the row, for a network of which `source` cannot tell a block."""
    for point in points:
        unknown = next((b for b in blocks_of(point.arch) if source.find_entry(b) is None), None)
        if unknown is not None:
            place = f" in row {point.row}" if point.row else ""
            raise TableError(
                f"{_name(source)} has no latency for {unknown.describe()}, a block of {point.name}"
                f"{place} of the points; leave that row out, or start --from another table"
            )


class Sensitivity:
    """By how much latencies on the source move with what a transfer fits, in logarithms."""

    def __init__(self, points: Sequence[Point], source: Table, processor: str) -> None:
        there = [
            replace(p, latency_ms=source.network_ms(blocks_of(p.arch)), includes="") for p in points
        ]
        network = _Networks(there, source, _reference(source, processor))
        size = 2 + len(network.names) + 2

        def logs(x: Array) -> Array:
            return np.log(network.latency_ms(network.values(x, 1.0)))

        start = logs(np.zeros(size))
        moved = [logs(STEP * unit) - start for unit in np.eye(size)]
        self.latency_ms: Array = np.exp(start)
        self.rows: Array = np.stack(moved, axis=1) / STEP  # (points, parameters)

    def prior_precision(self, spread: float) -> Array:
        """Return (parameters,) inverse variances before anything was timed."""
        return _sigma(self.rows.shape[1], spread) ** -2.0


class _Networks:
    """All points' operators in flat arrays, so that one evaluation of the model is quick.

    `beyond` is what the source's block takes beyond its physics, for each of its operators.
    """

    def __init__(self, points: Sequence[Point], source: Table, reference: Roofline) -> None:
        networks = [blocks_of(point.arch) for point in points]
        distinct = list(dict.fromkeys(block for blocks in networks for block in blocks))
        batch, precision = source.batch, source.precision
        self.source, self.reference = source, reference
        self.ops = OpArrays.of(distinct)
        self.names = FACTORS if source.roofline else FACTORS + GROUP_NAMES
        beyond: list[float] = []
        groups: list[int] = []
        where: dict[Block, npt.NDArray[np.int64]] = {}
        start = 0
        for block in distinct:
            length = len(OpArrays.of([block]).weights)
            ratio = source.block_ms(block) / reference.block_ms(block, batch, precision)
            beyond += [ratio] * length
            groups += [GROUP_NAMES.index(_group(block))] * length
            where[block] = np.arange(start, start + length)
            start += length
        indices = [np.concatenate([where[block] for block in blocks]) for blocks in networks]
        self.index = np.concatenate(indices)
        self.starts = np.cumsum([0, *(len(index) for index in indices[:-1])])
        self.beyond = np.array(beyond)
        self.groups = np.array(groups)
        self.given_ms = np.array([point.latency_ms for point in points])
        self.transferred_mb = np.array([transferred_mb(blocks) for blocks in networks])
        rest = replace(source.terms, fixed_ms=0.0, ms_per_mb=0.0, decoder_ms=0.0)
        self.rest_ms = np.array([rest.offset_ms(blocks, batch) for blocks in networks])
        self.decoders = np.array([point.includes == "mask_decoder" for point in points])
        rounding = np.array([point.rounding for point in points])
        self.weights = 1 / np.sqrt(MODEL_ERROR**2 + rounding**2 / 3)
        self.unit_ms = self.unit_ms_per_mb = 0.0
        self.scale, self.decoder_ms = 1.0, source.terms.decoder_ms
        source_ms = self.latency_ms({"scale": 1.0, "decoder": 1.0})
        if not source_ms.min() > 0:
            raise TableError(f"{_name(source)} has networks that take no time; start from another")
        fitted = np.array([point.fitted for point in points])
        self.scale = float(np.median((self.given_ms / source_ms)[fitted]))
        self.unit_ms = float(np.median(source_ms[fitted]))
        self.unit_ms_per_mb = float(np.median((source_ms / self.transferred_mb)[fitted]))
        if (self.decoders & fitted).any():
            self.decoder_ms = self.decoder_ms or OFFSET * self.unit_ms
        elif any(point.fitted and point.arch.task == "promptable" for point in points):
            self.decoder_ms = 0.0  # these were timed without one

    def values(self, x: Array, spread: float) -> dict[str, float]:
        """Return a fitted vector's scale and decoder, and with a spread factors and offsets."""
        values = {"scale": self.scale * math.exp(x[0]), "decoder": math.exp(x[1])}
        if spread:
            values |= dict(zip(self.names, np.exp(x[2:-2]).tolist(), strict=True))
            fixed, per_mb = (float(share) if share > NO_SHARE else 0.0 for share in x[-2:])
            values |= {"fixed": fixed, "per_mb": per_mb}
        return values

    def factors(self, values: Mapping[str, float]) -> dict[str, float]:
        scale = values["scale"]
        return {
            name: values.get(name, 1.0) * (scale if name in FACTORS else 1.0) for name in self.names
        }

    def terms(self, values: Mapping[str, float]) -> NetworkTerms:
        terms, batch = self.source.terms, self.source.batch
        fixed_ms = terms.fixed_ms + values.get("fixed", 0.0) * self.unit_ms * batch
        ms_per_mb = terms.ms_per_mb + values.get("per_mb", 0.0) * self.unit_ms_per_mb
        scale = values["scale"]
        return NetworkTerms(
            fixed_ms=scale * fixed_ms,
            ms_per_mb=scale * ms_per_mb,
            decoder_ms=scale * self.decoder_ms * values["decoder"],
            ms_per_m_params=scale * self.source.terms.ms_per_m_params,
            ms_per_peak_mb=scale * self.source.terms.ms_per_peak_mb,
        )

    def latency_ms(self, values: Mapping[str, float]) -> Array:
        """Return (points,) milliseconds per image."""
        batch = self.source.batch
        factors = self.factors(values)
        moved = _slowed(self.reference, factors)
        ops_ms = moved.ops_ms(self.ops, float(batch), self.source.precision) * self.beyond
        ops_ms = ops_ms * np.array([factors.get(name, 1.0) for name in GROUP_NAMES])[self.groups]
        total: Array = np.add.reduceat(ops_ms[self.index], self.starts)
        terms = self.terms(values)
        total = total + terms.fixed_ms / batch + terms.ms_per_mb * self.transferred_mb
        return total + values["scale"] * self.rest_ms + terms.decoder_ms * self.decoders


def _slowed(roofline: Roofline, factors: Mapping[str, float]) -> Roofline:
    """Return the model of a device that is slower by a factor at each of its resources."""
    conv = factors["convolution"]
    return replace(
        roofline,
        conv_gmacs_per_s=roofline.conv_gmacs_per_s / conv,
        macs_per_byte=roofline.macs_per_byte * factors["memory"] / conv,
        depthwise_speed=roofline.depthwise_speed * conv / factors["depthwise"],
        product_speed=roofline.product_speed * conv / factors["product"],
        launch_us=roofline.launch_us * factors["launch"],
    )


def _group(block: Block) -> str:
    return GROUPS.get(block.kind, "other_blocks")


def _reference(source: Table, processor: str) -> Roofline:
    """Return the physics of the source: its own model, or the processor's, fitted to the rows."""
    if source.roofline is not None:
        return source.roofline
    from scipy.optimize import least_squares

    prior: Prior = PRIORS[processor]
    names = [field.name for field in fields(Roofline)]
    every = sorted(source.entries, key=lambda block: repr(block))
    blocks = [b for b in every if source.entries[b].latency_ms > 0]
    blocks = blocks[:: -(-len(blocks) // ROWS_OF_A_MODEL) or 1]
    if not blocks:
        raise TableError(f"{_name(source)} has no row above 0 ms; start from another table")
    given_ms = np.array([source.entries[block].latency_ms for block in blocks])
    centre = {name: prior[name].median for name in names}
    centre["conv_gmacs_per_s"] *= network_cost(blocks).macs / given_ms.sum() / 1e6 or 1.0
    free = [name for name in names if prior[name].sigma]
    sigma = np.array([prior[name].sigma for name in free])
    start = np.log([centre[name] for name in free])
    ops = OpArrays.of(blocks)
    lengths = [len(OpArrays.of([block]).weights) for block in blocks]
    starts = np.cumsum([0, *lengths[:-1]])

    def model(x: Array) -> Roofline:
        return Roofline(**centre | dict(zip(free, np.exp(x).tolist(), strict=True)))

    def residuals(x: Array) -> Array:
        ms = model(x).ops_ms(ops, float(source.batch), source.precision)
        error = np.log(np.add.reduceat(ms, starts) / given_ms) / (10 * MODEL_ERROR)
        return np.concatenate([error, (x - start) / sigma])

    bounds = (start - 12, start + 12)
    return model(least_squares(residuals, start, bounds=bounds, x_scale=sigma, loss="soft_l1").x)


def _fit(network: _Networks, chosen: Chosen, spread: float, start: Array | None = None) -> Array:
    """Return the vector that `_Networks.values` reads."""
    from scipy.optimize import least_squares

    size = 2 + (len(network.names) + 2 if spread else 0)
    sigma = _sigma(size, spread)
    lower, upper = np.full(size, -12.0), np.full(size, 12.0)
    if spread:
        lower[-2:] = 0.0

    def residuals(x: Array) -> Array:
        error = np.log(network.latency_ms(network.values(x, spread)) / network.given_ms)
        return np.concatenate([(error * network.weights)[chosen], x / sigma])

    x = np.zeros(size) if start is None else start
    if spread:
        x = np.concatenate([x[:-2], np.maximum(x[-2:], 1e-4 * OFFSET)])
    return least_squares(residuals, x, bounds=(lower, upper), x_scale=sigma, ftol=1e-6).x


def _sigma(size: int, spread: float) -> Array:
    """Return prior standard deviations of the fitted vector; of the scale nothing is known."""
    sigma = np.full(size, spread)
    sigma[:2] = SCALE_SIGMA, DECODER_SIGMA
    if size > 2:
        sigma[-2:] = OFFSET * spread
    return sigma


def _folds(backbones: Sequence[Arch], chosen: Chosen) -> list[Chosen]:
    """Return the points of each architecture; of several together where there are many."""
    order = list(dict.fromkeys(b for b, c in zip(backbones, chosen, strict=True) if c))
    if len(order) < 2:
        raise TableError("all points are of one architecture; add points of another")
    number = {backbone: i % MAX_FOLDS for i, backbone in enumerate(order)}
    member = np.array([number.get(backbone, -1) for backbone in backbones])
    return [member == fold for fold in dict.fromkeys([*number.values(), *member.tolist()])]


def _leave_out(network: _Networks, chosen: Chosen, folds: Iterable[Chosen], spread: float) -> Array:
    """Return (points,) ms of each, by a fit without its fold."""
    every = _fit(network, chosen, spread)
    ms = np.zeros(len(chosen))
    for fold in folds:
        x = _fit(network, chosen & ~fold, spread, every)
        ms[fold] = network.latency_ms(network.values(x, spread))[fold]
    return ms


def _choose(errors: Mapping[float, Array], chosen: Chosen) -> float:
    """Return the narrowest spread that no wider one clearly beats on the chosen points."""
    best = min(errors)
    for spread, error in errors.items():
        if np.mean(error[chosen]) < WORTH * np.mean(errors[best][chosen]):
            best = spread
    return best


def _name(table: Table) -> str:
    return str(table.path) if table.path else f"the table of {table.device}"
