"""What MACs are worth at each output stride, and a network's size by that.

Learned from networks of other spaces (`predictors.stage_effects`): in log error, a further share
of MACs at a late stride gains more than at an early one. How much shape matters in all, against
size, differs between tables; which strides matter more agrees. So only the weights of the strides
are carried over, and half (`SHARE`) of what a law gives to size goes to MACs as they are spread:

    size' = size exp(SHARE sum_s w_s (log m_s - alpha_s - beta_s log M)),   s = 4, 8, 16, 32

m_s are a network's MACs at output stride s, M those of all of it. alpha and beta are what the
official networks of the family have, whose size' is thus nearly their size. As w_s >= 0 and
sum_s w_s beta_s = 1, size' never falls when MACs are added at any stride.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STRIDES = (2, 4, 8, 16, 32)  # of a stage's output against the picture
WORTH = STRIDES[1:]  # strides that have a weight; MACs at stride 2 count in the total alone
# Tables that are left out are predicted best with shares from 0.375 to 0.625, by the weights of the
# others (results/benchmarks/transfer.json); its error is taken as twice as wide.
SHARE, SHARE_STD = 0.5, 0.25


@dataclass(frozen=True, slots=True)
class Reference:
    """What MACs at each stride are usual at a size: log m_s = alpha_s + beta_s log M."""

    alpha: tuple[float, ...]
    beta: tuple[float, ...]

    @classmethod
    def of(cls, macs: Array) -> "Reference":
        """Fit to networks' MACs (rows, 5), by least squares for each stride."""
        total = np.log(macs.sum(axis=1))
        design = np.column_stack([np.ones_like(total), total])
        logs = np.log(np.maximum(macs[:, 1:], 1.0))
        alpha, beta = np.linalg.lstsq(design, logs, rcond=None)[0]
        return cls(tuple(alpha.tolist()), tuple(beta.tolist()))

    def deviations(self, macs: Array) -> Array:
        """Return by how much log MACs (rows, 4) differ from what is usual, from MACs (rows, 5)."""
        total = np.log(macs.sum(axis=-1, keepdims=True))
        logs = np.log(np.maximum(macs[..., 1:], 1.0))
        deviations: Array = logs - np.array(self.alpha) - np.array(self.beta) * total
        return deviations


@dataclass(frozen=True)
class Effects:
    """a_s of one table, as in the module's formula, with their covariance."""

    mean: Array  # (4,)
    covariance: Array  # (4, 4)


@dataclass(frozen=True, slots=True)
class Worth:
    """w_s of the module's formula for the networks of one family, with its error."""

    reference: Reference
    weights: tuple[float, ...]  # by WORTH; sum of weight times beta is 1
    covariance: tuple[tuple[float, ...], ...]  # of the weights

    @classmethod
    def of(cls, effects: Effects, reference: Reference) -> "Worth":
        """Scale effects to a family's reference."""
        scale = 1 / float(effects.mean @ np.array(reference.beta))
        return cls(
            reference,
            tuple((effects.mean * scale).tolist()),
            tuple(map(tuple, (effects.covariance * scale**2).tolist())),
        )

    def log_size(self, macs: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of log(size' / size), of MACs (rows, 5)."""
        deviations = self.reference.deviations(macs)
        shift = deviations @ np.array(self.weights)
        variance = (deviations @ np.array(self.covariance) * deviations).sum(axis=-1)
        std = np.hypot(SHARE * np.sqrt(np.maximum(variance, 0.0)), SHARE_STD * shift)
        return SHARE * shift, std
