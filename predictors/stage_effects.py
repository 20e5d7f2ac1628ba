"""What MACs are worth at each stride, fitted to public tables of networks of other spaces.

In a table the error e = 100 - accuracy follows a law of size; what is left of log e is regressed
on how much the MACs of each stride deviate from what is usual at that size:

    log e_law - log e = sum_s a_s (log m_s - alpha_s - beta_s log M),   s = 4, 8, 16, 32

`predictors.worth` says what m_s, M, alpha and beta are, and how a_s are used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from predictors.public_tables import PublicTable
from predictors.worth import WORTH, Array, Effects, Reference, Worth
from results.errors import PredictorError

CLASSIFICATION_TABLES = ("once_for_all", "accel_nasbench", "timm")  # ImageNet top-1
DENSE_TABLE = "nasbench_mr"
KERNEL_TABLES = ("once_for_all", "accel_nasbench")  # in which kernels vary block by block
EXPONENTS = np.linspace(0.05, 1.0, 96)
_MOST = 0.5  # of log error by which one row may be off; a failed training teaches nothing


@dataclass(frozen=True)
class SizeLaw:
    """A law of size fitted to a table: percent from MACs times the root of blocks."""

    ceiling: float
    scale: float
    exponent: float

    @classmethod
    def of(cls, sizes: Array, values: Array) -> "SizeLaw":
        """Fit by least squares, the exponent one of `EXPONENTS`."""
        best: tuple[float, SizeLaw] | None = None
        for exponent in EXPONENTS:
            design = np.column_stack([np.ones_like(sizes), -(sizes**-exponent)])
            solution = np.linalg.lstsq(design, values, rcond=None)[0]
            squares = float(np.sum((design @ solution - values) ** 2))
            if best is None or squares < best[0]:
                best = squares, cls(*map(float, (*solution, exponent)))
        assert best is not None
        return best[1]

    def __call__(self, sizes: Array) -> Array:
        """Return percent at sizes."""
        values: Array = self.ceiling - self.scale * sizes**-self.exponent
        return values


def sizes_of(table: PublicTable) -> Array:
    """Return GMACs times the root of the number of blocks."""
    sizes: Array = table.macs.sum(axis=1) / 1e9 * np.sqrt(table.depth)
    return sizes


def fit_effects(table: PublicTable) -> Effects:
    """Fit a_s to a table, its covariance robust to rows of one group that err alike."""
    if table.groups.max():
        target, features = _within_groups(table)
    else:
        law = SizeLaw.of(sizes_of(table), table.value)
        residual = np.log(100 - law(sizes_of(table))) - np.log(100 - table.value)
        target = np.clip(residual, -_MOST, _MOST)
        deviations = Reference.of(table.macs).deviations(table.macs)
        ones = np.ones((len(target), 1))
        features = np.hstack([deviations, _at_equal_size(table, table.controls), ones])
    inverse = np.linalg.pinv(features.T @ features)
    solution = inverse @ features.T @ target
    scores = features * (target - features @ solution)[:, None]
    if table.groups.max():
        scores = np.array([scores[table.groups == g].sum(axis=0) for g in set(table.groups)])
    covariance = inverse @ scores.T @ scores @ inverse
    return Effects(solution[: len(WORTH)], covariance[: len(WORTH), : len(WORTH)])


def _within_groups(table: PublicTable) -> tuple[Array, Array]:
    """Return -log error and features less the mean of each group, whose levels do not compare.

    The law of size is what the groups share: within one, log MACs of all strides and controls.
    """
    features = np.hstack([np.log(np.maximum(table.macs[:, 1:], 1.0)), table.controls])
    target = -np.log(100 - table.value)
    for group in set(table.groups):
        rows = table.groups == group
        features[rows] -= features[rows].mean(axis=0)
        target[rows] -= target[rows].mean()
    return target, features


def _at_equal_size(table: PublicTable, columns: Array) -> Array:
    """Return what of each column the logarithm of all MACs does not tell."""
    total = np.log(table.macs.sum(axis=1))
    design = np.column_stack([np.ones_like(total), total])
    rest: Array = columns - design @ np.linalg.lstsq(design, columns, rcond=None)[0]
    return rest


def combine(effects: Sequence[Effects]) -> Effects:
    """Return what a further space is to be expected to have, of the effects in some tables.

    The mean of the tables, none below 0; the covariance that of the tables' means around theirs,
    for a new one and for that mean, and their own. One table alone has only its own.
    """
    means = np.array([effect.mean for effect in effects])
    own = np.mean([effect.covariance for effect in effects], axis=0)
    between = np.zeros_like(own)
    if len(means) > 1:
        between = np.cov(means.T) * (1 + 1 / len(means))
    return Effects(np.maximum(means.mean(axis=0), 0.0), own + between)


def shifted(law: SizeLaw, table: PublicTable, effects: Effects) -> Array:
    """Return a table's accuracies by its own law of size and effects of other tables, percent."""
    worth = Worth.of(effects, Reference.of(table.macs))
    shift, _ = worth.log_size(table.macs)
    return law(sizes_of(table) * np.exp(shift))


def kernel_effects(table: PublicTable) -> Array:
    """Return what larger kernels are worth beyond their MACs, (4,) by stride.

    In -log error for a stride whose depthwise convolutions are all 5 x 5 instead of 3 x 3.
    """
    law = SizeLaw.of(sizes_of(table), table.value)
    residual = np.log(100 - law(sizes_of(table))) - np.log(100 - table.value)
    deviations = Reference.of(table.macs).deviations(table.macs)
    kernels = _at_equal_size(table, table.kernel)
    features = np.hstack([deviations, kernels, _at_equal_size(table, table.controls)])
    solution = np.linalg.lstsq(features, np.clip(residual, -_MOST, _MOST), rcond=None)[0]
    effects: Array = solution[len(WORTH) : 2 * len(WORTH)] * math.log(5 / 3)
    return effects


def learn(tables: Mapping[str, PublicTable]) -> dict[str, Any]:
    """Return all that predictions use, as stage_effects.json has it, with how it was judged.

    Dense predictions take all tables, classification those of ImageNet. Raises PredictorError
    where a table is missing.
    """
    missing = [name for name in (*CLASSIFICATION_TABLES, DENSE_TABLE) if name not in tables]
    if missing:
        raise PredictorError(f"no table of {', '.join(missing)}; see docs/accuracy.md, Shape")
    effects = {name: fit_effects(table) for name, table in tables.items()}
    of_imagenet = [effects[name] for name in CLASSIFICATION_TABLES]
    judged = {name: _left_out(name, tables, effects) for name in tables}
    left = [j["std"] / j["std_of_size"] for name, j in judged.items() if j and name != DENSE_TABLE]
    kernels = {name: kernel_effects(tables[name]) for name in KERNEL_TABLES}
    beyond = [value for own in kernels.values() for value in own]
    without, with_scales = 72.2, 74.5
    return {
        "combined": {
            "classification": _estimate(combine(of_imagenet)),
            "dense": _estimate(combine([*of_imagenet, effects[DENSE_TABLE]])),
        },
        "kernel_effect": _rounded(float(np.mean(beyond))),
        "kernel_std": _rounded(float(np.std(beyond, ddof=1))),
        "scales_effect": _rounded(math.log((100 - without) / (100 - with_scales))),
        "scales_source": "Cityscapes mIoU 72.2 without and 74.5 with multi-scale branches at equal "
        "MACs, arXiv:2205.14756 Table 1",
        "unexplained": _rounded(_root_mean_square(left)),
        "strides": list(WORTH),
        "tables": {
            name: {
                "about": table.about,
                "networks": len(table.value),
                "effects": _estimate(effects[name]),
                "kernel_5x5_beyond_macs": [_rounded(v) for v in kernels.get(name, [])],
                "left_out": judged[name],
            }
            for name, table in tables.items()
        },
    }


def _left_out(
    name: str, tables: Mapping[str, PublicTable], effects: Mapping[str, Effects]
) -> dict[str, Any] | None:
    """Return how a table is predicted by its law of size alone, and with effects of the others."""
    from scipy.stats import kendalltau

    table = tables[name]
    if table.groups.max():
        return None
    others = [other for other in CLASSIFICATION_TABLES if other != name]
    law = SizeLaw.of(sizes_of(table), table.value)
    by_size = law(sizes_of(table))
    by_shape = shifted(law, table, combine([effects[other] for other in others]))
    return {
        "effects_of": others,
        "tau_of_size": _rounded(kendalltau(by_size, table.value).statistic),
        "tau": _rounded(kendalltau(by_shape, table.value).statistic),
        "std_of_size": _rounded(float(np.std(table.value - by_size))),
        "std": _rounded(float(np.std(table.value - by_shape))),
    }


def _estimate(effects: Effects) -> dict[str, Any]:
    return {
        "mean": [_rounded(value) for value in effects.mean],
        "covariance": [[_rounded(value) for value in row] for row in effects.covariance],
    }


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values))


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
