"""The `published` accuracy prior: what EfficientViT's own figures say about an architecture.

The mean is a scaling law (`predictors.scaling`), fitted for each data set on few networks:
two parameters (ceiling, scale), the exponent where it is not ImageNet's, and an offset of
family l where three or more networks of both families were published. The standard deviation
comes from leaving out one architecture at a time, since rows of one network resemble each
other too much to judge by, and grows with the distance from the published shapes
(`predictors.shape`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np

from predictors.batch import Batch, Predictions, PredictsMany
from predictors.part_rows import PartRows
from predictors.part_shape import shapes_of
from predictors.scaling import Law, PublishedFigure, fit_law
from predictors.shape import MACS, RESOLUTION, SPREAD, Box, Numbers, features, transferred
from predictors.size import CLASSIFICATION, DENSE, Size, size_of, sizes_of, stage_effects
from predictors.worth import Array
from results.errors import PredictorError, nearest
from results.sheets import parse_sheet
from supernet.arch import Arch, Family, format_resolution, parse_resolution
from supernet.official import BACKBONES

EXTRAPOLATED = 2.0  # octaves of distance above which a prediction is flagged; std has doubled
# ADE20K's figures keep rising where those of the others level off.
OWN_EXPONENT = ("imagenet", "ade20k")
# Labels per pixel suffer more from a smaller picture than the MACs that it saves tell, and all
# figures are of nearly one resolution: by assumption, an octave counts as three.
FINE_LABELS, FINE_WEIGHT = ("cityscapes", "ade20k"), 3.0
CLASSES = {"imagenet": 1000, "cityscapes": 19, "ade20k": 150}  # that figures are of
# One figure tells what multi-scale branches are worth, of Cityscapes and a small network trained
# from scratch: its error elsewhere is taken as half of it.
SCALES_DOUBT = 0.5
# Standard deviations are as formed times this. As formed, intervals of nominally 90 % held 97 to
# 99 % of networks of other spaces that were predicted in the same way; times this 88 to 92 %
# (results/benchmarks/coverage.json).
HELD = 0.65
NEGLIGIBLE = 0.1  # percent: top-1 by chance; the law would fall below 0 for tiny networks


@dataclass(frozen=True, slots=True)
class AccuracyPrediction:
    """In the metric's own points (percent, or dB)."""

    mean: float
    std: float
    distance: float = 0.0  # from the published shapes, in octaves
    extrapolated: bool = False  # unlike everything that the predictor was fitted on
    transferred: bool = False  # a choice is judged by what it is worth in other networks


@dataclass(frozen=True)
class PriorPredictions(Predictions):
    """Predictions of many networks; each field is (networks,)."""

    distance: Array  # from the published shapes, in octaves


@dataclass(frozen=True, slots=True)
class Residual:
    """Prediction minus published value, in points, at one published figure."""

    name: str
    resolution: str
    value: float
    fitted: float  # by the law fitted on all points
    row_left_out: float
    arch_left_out: float


@dataclass(frozen=True)
class Prior(PredictsMany):
    """Predicts a metric from the backbone alone; the head has no influence."""

    dataset: str
    metric: str
    law: Law
    std: float  # points, at the published shapes, HELD in it
    boxes: dict[Family, Box]
    residuals: tuple[Residual, ...]
    num_params: int
    provenance: ClassVar[str] = "published"

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Return mean and standard deviation for any architecture and resolution.

        Within a family, more resolution, width, depth or expansion never lowers the mean.
        To the standard deviation at the published shapes, every octave of distance from them
        adds the same again, in quadrature: an assumption, which networks of other spaces bear
        out on the whole. Below the smallest published network it also grows as the law's distance
        from the ceiling does.

        Raises PredictorError if nothing was published for the family.
        """
        box = self._box(arch.family)
        distance, octaves = self.distance_of(box.excess(features(arch)))
        kernels, without_scales = transferred(arch)
        size = size_of(arch, self.law.task)
        mean, std = self._judge(arch.family, size, distance, octaves, kernels, without_scales)
        return AccuracyPrediction(
            float(mean),
            float(std),
            float(distance),
            bool(distance > EXTRAPOLATED),
            kernels > 0 or without_scales > 0,
        )

    def judge(self, batch: Batch) -> "PriorPredictions":
        """Return the predictions of many networks. Raises as `predict`."""
        values = batch.collect(self._of_part).reshape(len(batch), 4)
        mean, std, distance, transferred_share = values.T
        far = distance > EXTRAPOLATED
        return PriorPredictions(mean, std, far, transferred_share > 0, distance)

    def _of_part(self, rows: PartRows) -> Array:
        """Return mean, std, distance and how much is transferred, (networks, 4)."""
        part, shapes = rows.part, shapes_of(rows.part)
        box = self._box(part.part.family)
        own = box.excess(shapes.network_features(rows))
        squared = np.zeros(len(rows))
        kernels, without = np.zeros(len(rows)), np.zeros(len(rows))
        beyond = shapes.squared_excess(box, len(own))
        for stage, index, known in zip(shapes.stages, shapes.indices(rows), beyond, strict=True):
            squared += known.take(index)
            kernels += stage.larger_kernel.take(index)
            without += stage.without_scales.take(index)
        without /= shapes.num_attention
        distance, octaves = self.distance_of([*own, np.sqrt(squared)])
        size = sizes_of(
            part.part.family, len(part.places), self.law.task, rows.macs, rows.num_blocks
        )
        mean, std = self._judge(part.part.family, size, distance, octaves, kernels, without)
        return np.stack([mean, std, distance, kernels + without], axis=1)

    def _box(self, family: Family) -> Box:
        try:
            return self.boxes[family]
        except KeyError:
            raise PredictorError(
                f"no published {self.metric} of family {family}; "
                f"choose an architecture of family {' or '.join(self.boxes)}"
            ) from None

    def distance_of(self, excess: list[Numbers]) -> tuple[Numbers, Numbers]:
        """Return the distance from the published shapes, and how far MACs are below theirs.

        Args:
            excess: of all features, as `Box.excess` gives them; those of stages may be joined.
        """
        known = stage_effects()
        squared = 0.0
        for number, value in enumerate(excess):
            if number == RESOLUTION and self.dataset in FINE_LABELS:
                value = value * FINE_WEIGHT
            if SPREAD.start <= number < SPREAD.stop:
                # What other networks tell of such shapes is in the mean, its own error below.
                value = value * known.unexplained
            squared = squared + value**2
        return np.sqrt(squared), np.maximum(0.0, -excess[MACS])

    def _judge(
        self,
        family: Family,
        size: Size,
        distance: Numbers,
        octaves_below: Numbers,
        kernels: Numbers,
        without_scales: Numbers,
    ) -> tuple[Numbers, Numbers]:
        """Return mean and standard deviation, of one network or of many of a family."""
        known = stage_effects()
        growth = np.hypot(1.0, distance) * np.exp2(self.law.exponent * octaves_below)
        lost = known.scales_effect * without_scales
        error = 100.0 - self.law.value(size.value, family)
        error = error * np.exp(lost - known.kernel_effect * kernels)
        variance = (self.law.slope(size.value) * size.log_std) ** 2
        variance += error**2 * (known.kernel_std**2 * kernels + (lost * SCALES_DOUBT) ** 2)
        variance = (self.std * growth) ** 2 + HELD**2 * variance
        return np.maximum(100.0 - error, NEGLIGIBLE), np.sqrt(variance)

    def describe(self) -> str:
        """Return provenance and error, in one line."""
        names = len({row.name for row in self.residuals})
        return (
            f"{self.provenance}, a scaling law on {len(self.residuals)} figures of {names} "
            f"networks, error {self.arch_mae:.2f} points on average on networks left out, std "
            f"{self.std:.2f} near them; shapes and 5x5 kernels by what they are worth in other "
            "networks; blind to mixers, scales and local blocks"
        )

    @property
    def row_mae(self) -> float:
        """Return the mean absolute error with each row left out in turn, in points."""
        return _mean(abs(r.row_left_out) for r in self.residuals)

    @property
    def arch_mae(self) -> float:
        """Return the mean absolute error with each architecture left out in turn, in points."""
        return _mean(abs(r.arch_left_out) for r in self.residuals)

    def to_dict(self) -> dict[str, Any]:
        """Return everything needed to judge a prediction, for run.json."""
        return {
            "provenance": self.provenance,
            "dataset": self.dataset,
            "metric": self.metric,
            "formula": "ceiling + offset_l [family l] - scale size^-exponent, see docs/accuracy.md",
            "law": asdict(self.law),
            "num_params": self.num_params,
            "std": self.std,
            "extrapolated_above_distance": EXTRAPOLATED,
            "leave_row_out_mae": self.row_mae,
            "leave_architecture_out_mae": self.arch_mae,
            "residuals": [asdict(r) for r in self.residuals],
        }


@dataclass(frozen=True)
class OtherClasses(PredictsMany):
    """What was published of one data set, asked of networks that tell other classes apart."""

    prior: Prior
    num_classes: int
    provenance: ClassVar[str] = Prior.provenance

    @property
    def metric(self) -> str:
        """Return what is predicted, and of which classes it is not."""
        return f"{self.prior.metric}, not of your {self.num_classes} classes"

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Return `Prior.predict` of the network."""
        return self.prior.predict(arch)

    def judge(self, batch: Batch) -> Predictions:
        """Return `Prior.judge` of the networks."""
        return self.prior.judge(batch)

    def describe(self) -> str:
        """Return provenance and error, in one line."""
        return (
            f"{self.prior.describe()}; says what networks reach on {self.prior.dataset}, not on "
            f"your {self.num_classes} classes: evaluate subnets on those by supernet.evaluate"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return `Prior.to_dict`, for run.json."""
        return self.prior.to_dict()


def published(dataset: str, num_classes: int | None) -> Prior | OtherClasses:
    """Return the prior of a data set, for networks of so many classes; None: its own.

    Raises PredictorError if there is none.
    """
    prior = load_prior(dataset)
    if num_classes in (None, CLASSES.get(dataset)) or dataset not in CLASSES:
        return prior
    assert num_classes is not None
    return OtherClasses(prior, num_classes)


def difference_std(a_std: float, b_std: float) -> float:
    """Return the standard deviation of the difference of two predictions.

    Errors are taken as correlated by 1/2: those of one network at two resolutions are nearly
    equal, those of two networks independent. Between equally uncertain predictions the
    standard deviation of the difference is then that of either.
    """
    return math.sqrt(a_std**2 + b_std**2 - a_std * b_std)


def published_resolutions(dataset: str) -> dict[str, list[tuple[int, int]]]:
    """Return at which (height, width) networks with published figures were evaluated, by name."""
    resolutions: dict[str, list[tuple[int, int]]] = {}
    for row in _published_rows().get(dataset, []):
        resolutions.setdefault(row["arch"], []).append(parse_resolution(row["resolution"]))
    return resolutions


@lru_cache
def load_prior(dataset: str) -> Prior:
    """Return the prior fitted on the packaged figures. Raises PredictorError if there are none."""
    rows = _published_rows()
    if dataset not in rows:
        known = nearest(dataset, rows)
        raise PredictorError(f"no published accuracies for {dataset!r} to predict from{known}")
    points = [
        PublishedFigure(
            row["arch"],
            replace(BACKBONES[row["arch"]], resolution=parse_resolution(row["resolution"])),
            float(row["value"]),
        )
        for row in rows[dataset]
    ]
    own = dataset in OWN_EXPONENT
    exponent = None if own else load_prior("imagenet").law.exponent
    return fit_prior(points, dataset, rows[dataset][0]["metric"], exponent)


def fit_prior(
    points: Sequence[PublishedFigure], dataset: str, metric: str, exponent: float | None = None
) -> Prior:
    """Fit on published figures; `exponent` None fits that too.

    Every architecture weighs the same, however many resolutions it was evaluated at.

    Raises PredictorError if there are too few architectures, or the figures do not rise with
    the size of the network.
    """
    task = CLASSIFICATION if dataset == "imagenet" else DENSE
    names = list(dict.fromkeys(point.name for point in points))
    archs_of = {family: {p.name for p in points if p.arch.family == family} for family in "bl"}
    with_offset = min(map(len, archs_of.values())) >= 3
    num_params = 2 + (exponent is None) + with_offset
    if len(names) <= num_params:
        raise PredictorError(
            f"{len(names)} architectures are too few for the prior's {num_params} parameters; "
            "add published figures of others"
        )

    def law_of(kept: Iterable[PublishedFigure]) -> Law:
        return fit_law(list(kept), task, with_offset, exponent)

    def error(law: Law, point: PublishedFigure) -> float:
        return law(point.arch) - point.value

    law = law_of(points)
    arch_out = {name: law_of(p for p in points if p.name != name) for name in names}
    residuals = tuple(
        Residual(
            point.name,
            format_resolution(point.arch.resolution),
            point.value,
            error(law, point),
            error(law_of([*points[:i], *points[i + 1 :]]), point),
            error(arch_out[point.name], point),
        )
        for i, point in enumerate(points)
    )
    by_arch = _mean(
        _mean(r.arch_left_out**2 for r in residuals if r.name == name) for name in names
    )
    # So few architectures leave the error itself uncertain: the usual n / (n - parameters).
    std = HELD * math.sqrt(by_arch * len(names) / (len(names) - num_params))
    families: tuple[Family, ...] = ("b", "l")
    boxes = {
        f: Box.around([p.arch for p in points if p.arch.family == f])
        for f in families
        if archs_of[f]
    }
    return Prior(dataset, metric, law, std, boxes, residuals, num_params)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


@lru_cache
def _published_rows() -> dict[str, list[dict[str, str]]]:
    """Return the rows of results/published/accuracy.csv, by data set."""
    text = (files("results") / "published" / "accuracy.csv").read_text(encoding="utf-8")
    rows: dict[str, list[dict[str, str]]] = {}
    known = ("arch", "dataset", "resolution", "value", "metric")
    for _, row in parse_sheet(text, known, "the published accuracies", error=PredictorError):
        rows.setdefault(row["dataset"], []).append(row)
    return rows
