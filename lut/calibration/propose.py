"""Which networks to time next, so that a transfer learns most from few.

A network tells about a factor of a transfer by how much its latency moves with it. Greedily that
network is added which most shrinks the volume of what stays possible (D-optimal design, given
what has been timed already), one from every part of the range of latency.
"""

import random
from collections.abc import Sequence

import numpy as np

from lut.calibration.fit import MODEL_ERROR
from lut.calibration.points import Point
from lut.calibration.transfer import Sensitivity, check_covered
from lut.roofline import Array
from lut.table import Table
from results.errors import TableError
from supernet.arch import Arch
from supernet.space import Space

POOL = 300  # random networks to choose from, at least; and at least POOL_EACH a choice
POOL_EACH = 10
MOST = 200
SPREAD = 0.4  # prior of a factor's logarithm: what a network can teach is judged against it


def propose(
    count: int,
    source: Table,
    space: Space,
    measured: Sequence[Point],
    processor: str,
    seed: int = 0,
) -> list[tuple[Arch, float]]:
    """Return `count` networks of a space to time, fastest first, with the source's milliseconds.

    Raises TableError where the space has too few networks, and where `source` lacks a block.
    """
    if not 1 <= count <= MOST:
        raise TableError(f"--propose takes 1 to {MOST} networks, not {count}")
    rng = random.Random(seed)
    wanted = max(POOL, POOL_EACH * count)
    timed = {point.arch for point in measured}
    drawn = dict.fromkeys(space.sample(rng) for _ in range(2 * wanted))
    pool = [arch for arch in drawn if arch not in timed][:wanted]
    if len(pool) < count:
        raise TableError(
            f"space {space.name} has {len(pool)} networks left to time, not {count}; propose fewer"
        )
    check_covered(measured, source)
    points = [Point(arch, "custom", 1.0) for arch in pool]
    sensitivity = Sensitivity([*points, *measured], source, processor)
    rows = sensitivity.rows / MODEL_ERROR
    information = np.diag(sensitivity.prior_precision(SPREAD))
    information = information + rows[len(pool) :].T @ rows[len(pool) :]
    order = np.argsort(sensitivity.latency_ms[: len(pool)], kind="stable")
    parts = [list(part) for part in np.array_split(order, count)]
    chosen: list[int] = []
    while parts:
        gains = [_gains(information, rows[part]) for part in parts]
        best = max(range(len(parts)), key=lambda i: float(gains[i].max()))
        index = int(parts[best][int(gains[best].argmax())])
        information = information + np.outer(rows[index], rows[index])
        chosen.append(index)
        del parts[best]
    ms = sensitivity.latency_ms
    return [(pool[i], float(ms[i])) for i in sorted(chosen, key=lambda i: float(ms[i]))]


def _gains(information: Array, rows: Array) -> Array:
    """Return by how much each row adds to the logarithm of the determinant."""
    solved = np.linalg.solve(information, rows.T)
    gains: Array = np.log1p(np.einsum("ij,ji->i", rows, solved))
    return gains
