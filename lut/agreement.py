"""How well predicted latencies agree with measured ones: what validation objects hold."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Agreement:
    """Relative errors predicted / measured - 1, and how far the two orders agree.

    Where all predicted or all measured latencies are one number there is no order, and no
    correlation of it: 0.
    """

    mape_percent: float
    within_5_percent: float  # share of networks, in percent
    within_10_percent: float
    spearman: float
    kendall_tau: float

    def to_dict(self) -> dict[str, float]:
        """Return the fields by name, for a sidecar."""
        return asdict(self)


def agreement(predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> Agreement:
    """Compare latencies in ms of the same networks.

    Raises ValueError with fewer than two networks, as there is no order then.
    """
    from scipy.stats import spearmanr

    if len(predicted_ms) < 2:
        raise ValueError("two networks at least")
    predicted, measured = np.asarray(predicted_ms, float), np.asarray(measured_ms, float)
    errors = np.abs(predicted / measured - 1)
    ordered = np.ptp(predicted) > 0 and np.ptp(measured) > 0
    return Agreement(
        mape_percent=100 * float(errors.mean()),
        within_5_percent=100 * float((errors <= 0.05).mean()),
        within_10_percent=100 * float((errors <= 0.10).mean()),
        spearman=float(spearmanr(predicted, measured).statistic) if ordered else 0.0,
        kendall_tau=kendall_tau(predicted_ms, measured_ms),
    )


def kendall_tau(predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> float:
    """Return Kendall's tau-b of two orders; 0 where one is none: few numbers, or all equal."""
    from scipy.stats import kendalltau

    if len(set(predicted_ms)) < 2 or len(set(measured_ms)) < 2:
        return 0.0
    return float(kendalltau(predicted_ms, measured_ms).statistic)


def scale_between(predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> float:
    """Return the one factor that brings `predicted_ms` nearest to `measured_ms`, in logarithms.

    The mean over the middle half: where a copy of a network lies in memory can slow it by 8 %.
    """
    ratios = np.asarray(measured_ms, float) / np.asarray(predicted_ms, float)
    logs = np.sort(np.log(ratios))
    outer = len(logs) // 4
    return float(np.exp(logs[outer : len(logs) - outer].mean()))
