"""Non-dominated networks in three or four objectives, as a grid of cells.

All objectives but the last are laid on a logarithmic grid; of each cell the best in the last one
is kept, where no cell that is at most as dear in all others has one as good. So every network has
one that is kept beside it: at least as good in the last objective, and at most one cell dearer in
the others (epsilon-dominance, Laumanns et al. 2002). None that is kept is dominated by another of
the same set.
"""

import math
from bisect import bisect_right

import numpy as np

from predictors.components import Indices
from predictors.worth import Array

WIDTHS = {3: 0.03, 4: 0.1}  # of a cell as a share of the cost, by number of objectives
NOTHING: Indices = np.zeros(0, np.intp)
MOST_RATIO = 1e6  # between the most and the least of a cost, below which all is one cell


def survivors(costs: Array, width: float) -> Indices:
    """Return the indices of networks that are kept, those of the least first cost first.

    Args:
        costs: (networks, objectives), the less the better, all but the last not negative.
    """
    if not len(costs):
        return np.zeros(0, np.intp)
    cells = _cells(costs[:, :-1], width)
    last = costs[:, -1]
    order = np.lexsort((*costs.T[-2::-1], last, *cells.T))
    firsts = np.ones(len(order), np.bool_)
    firsts[1:] = np.any(cells[order[1:]] != cells[order[:-1]], axis=1)
    winners = order[firsts]
    grid = np.full(cells.max(axis=0) + 1, np.inf)
    own = tuple(cells[winners].T)
    grid[own] = last[winners]
    before = np.full(grid.shape, np.inf)  # the best of all other cells that are not dearer
    for axis in range(grid.ndim):
        np.minimum.accumulate(grid, axis=axis, out=grid)
    for axis in range(grid.ndim):
        later = [slice(None)] * grid.ndim
        earlier = [slice(None)] * grid.ndim
        later[axis], earlier[axis] = slice(1, None), slice(None, -1)
        np.minimum(before[tuple(later)], grid[tuple(earlier)], out=before[tuple(later)])
    kept = winners[last[winners] < before[own]]
    ordered: Indices = kept[np.argsort(costs[kept, 0], kind="stable")]
    return ordered


def front_of(costs: Array, also: Indices = NOTHING) -> Indices:
    """Return the indices of the networks that make up a front, in order of their first cost.

    With three objectives they are those of `survivors`, and what others do not beat of `also`,
    whatever is in their cells. With four, whose cells are wide, all of the some thousand networks
    that a search has kept are compared with all.
    """
    if costs.shape[1] < 4:
        kept = survivors(costs, WIDTHS[costs.shape[1]])
        if not len(also):
            return kept
        kept = np.union1d(kept, also)
        return kept[_unbeaten_of_three(costs[kept])]
    order = np.lexsort(costs.T[::-1])
    ordered = costs[order]
    kept = np.ones(len(order), np.bool_)
    for number in range(len(order)):
        if kept[number]:  # what it beats or equals comes after it
            kept[number + 1 :] &= np.any(ordered[number + 1 :] < ordered[number], axis=1)
    found: Indices = order[kept]
    return found


def _unbeaten_of_three(costs: Array) -> Indices:
    """Return the indices of networks that no other beats or equals, in order of the first cost."""
    order = np.lexsort(costs.T[::-1])
    kept = []
    # Of the networks so far: second costs, rising, and the least third that is there at each.
    seconds, thirds = [-math.inf], [math.inf]
    for row, (_, second, third) in zip(order.tolist(), costs[order].tolist(), strict=True):
        end = bisect_right(seconds, second)
        if thirds[end - 1] <= third:
            continue
        kept.append(row)
        begin = end
        while end < len(thirds) and thirds[end] >= third:
            end += 1
        begin -= seconds[begin - 1] == second
        seconds[begin:end], thirds[begin:end] = [second], [third]
    return np.array(kept, dtype=np.intp)


def _cells(costs: Array, width: float) -> Indices:
    """Return the cell of each network, (networks, costs), from 0."""
    most = costs.max(axis=0)
    least = np.maximum(costs, np.maximum(most / MOST_RATIO, np.finfo(np.float64).tiny))
    steps = np.floor(np.log(least) / math.log1p(width)).astype(np.intp)
    cells: Indices = steps - steps.min(axis=0)
    return cells
