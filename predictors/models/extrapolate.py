"""What more rows would bring: a learning curve drawn on."""

from collections.abc import Sequence

import numpy as np

from predictors.models.judge import CurvePoint

TIMES = (2, 4)  # as many rows as there are
STEEPEST = 0.5  # of errors' logarithm by that of rows: what averaging noise away would give


def with_more(curve: Sequence[CurvePoint], rows: int) -> list[tuple[int, float]]:
    """Return (rows, mean error) for more rows, by a power law through the curve.

    [] where the curve has fewer than two points, or an error of zero.

    >>> point = lambda rows, mae: CurvePoint(rows=rows, kendall_tau=None, mae=mae)
    >>> [(n, round(mae, 4)) for n, mae in with_more([point(25, 0.2), point(100, 0.1)], 100)]
    [(200, 0.0707), (400, 0.05)]
    """
    if len(curve) < 2 or min(point.mae for point in curve) <= 0:
        return []
    x = np.log([point.rows for point in curve])
    y = np.log([point.mae for point in curve])
    slope = float(np.clip(np.polyfit(x, y, 1)[0], -STEEPEST, 0.0))
    last = curve[-1]
    return [(n * rows, last.mae * (n * rows / last.rows) ** slope) for n in TIMES]
