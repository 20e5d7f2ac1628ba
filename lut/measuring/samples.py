"""What many noisy runs of one model say of its latency."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LOW_SHARE = 1 / 3  # of the samples, the lowest, whose mean is the latency: four of twelve
GROUPS = 4  # of samples that tell how far the mean may be off
QUANTILES = (10, 25, 50, 75, 90)  # percent, kept beside


@dataclass(frozen=True, slots=True)
class Latency:
    """The mean of the lowest third, its standard error, and the quantiles it comes from.

    On a machine with busy neighbours the low quantile moves 1 to 3 % where the median moves
    by a third.
    """

    us: float
    std_us: float
    num_samples: int
    quantiles_us: tuple[float, ...]  # of QUANTILES


def latency_of(
    samples_us: Sequence[float] | npt.NDArray[np.float64], share: float = LOW_SHARE
) -> Latency:
    """Return the mean of the lowest `share` of samples. Raises ValueError without samples."""
    if not len(samples_us):
        raise ValueError("no samples")
    samples = np.asarray(samples_us, dtype=np.float64)
    groups = [low_mean(samples[i::GROUPS], share) for i in range(GROUPS) if len(samples[i::GROUPS])]
    std = float(np.std(groups, ddof=1)) / len(groups) ** 0.5 if len(groups) > 1 else 0.0
    quantiles = tuple(float(q) for q in np.percentile(samples, QUANTILES))
    return Latency(low_mean(samples, share), std, len(samples), quantiles)


def mean_of(copies: Sequence[Latency]) -> Latency:
    """Return the latency of a model over its copies, as memory moves a time by 1 to 4 %."""
    if len(copies) == 1:
        return copies[0]
    std = sum(copy.std_us**2 for copy in copies) ** 0.5 / len(copies)
    between = float(np.std([copy.us for copy in copies], ddof=1)) / len(copies) ** 0.5
    quantiles = np.mean([copy.quantiles_us for copy in copies], axis=0)
    return Latency(
        us=float(np.mean([copy.us for copy in copies])),
        std_us=max(std, between),
        num_samples=sum(copy.num_samples for copy in copies),
        quantiles_us=tuple(quantiles.tolist()),
    )


def low_mean(samples: npt.NDArray[np.float64], share: float = LOW_SHARE) -> float:
    """Return the mean of the lowest `share`, of one sample at least."""
    count = max(1, round(share * len(samples)))
    return float(np.partition(samples, count - 1)[:count].mean())
