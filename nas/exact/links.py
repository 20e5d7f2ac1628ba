"""Networks as chains of stages, and bounds of sums over whole chains.

A network is a chain of links: the stem and every stage, the last link holding all stages at the
largest output stride. A link's sums follow from its own choices and the width before it, and the
distance from the published shapes from the depth before it too. So the best total of any weighted
sums is found going from link to link, keeping the best for each width and depth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nas.exact.sections import Section
from nas.exact.stages import CUT, Context, Digits, links_of
from predictors.accuracy import Prior
from predictors.components import Indices, PartComponents
from predictors.latency import LatencyPredictor
from predictors.shape import LAST_STAGES, SPREAD
from predictors.worth import Array

SUMS = ("ms", "macs", "blocks", "spread", "loss", "compared", "params", "all_macs", "apart")
OTHER_MS = "other_ms"  # on a second device, where there is one
LOSS_DIGITS = 12  # to which sums of losses are told apart


@dataclass(frozen=True)
class Link:
    """All choices of one link in one context; its own width varies fastest.

    Next come the width before and its first depth.
    """

    shape: tuple[int, int, int]  # numbers of first depths, widths before, own widths
    digits: Digits  # each (rows,)
    sums: Array  # (len(SUMS), rows)
    other_ms: Array  # (rows,) on the second device, none without one
    apart: Array  # (depths before, depths) of squared distance, that depths side by side add
    section: Section

    @cached_property
    def peak(self) -> Array:
        """Return elements that are live at least in the blocks, the head left out, (rows,)."""
        return self.section.least_peak(self.digits)

    @property
    def depth(self) -> Indices:
        """Return the position of the first depth, (rows,)."""
        return self._position(0)

    @property
    def before(self) -> Indices:
        """Return the position of the width before, (rows,)."""
        return self._position(1)

    @property
    def after(self) -> Indices:
        """Return the position of the link's own width, (rows,)."""
        return self._position(2)

    def _position(self, axis: int) -> Indices:
        rows = np.arange(self.sums.shape[1]) // math.prod(self.shape[axis + 1 :])
        position: Indices = rows % self.shape[axis]
        return position


class Links:
    """Makes the links of one part's networks."""

    def __init__(
        self, part: PartComponents, latencies: Sequence[LatencyPredictor], prior: Prior
    ) -> None:
        """Take the part, and what tells latencies, of one device or two, and accuracies.

        Raises as `LatencyColumns.of`.
        """
        self.part, self.prior = part, prior
        self._known: dict[tuple[int, Context], Link] = {}
        last = len(part.places)
        self.front = Section(part, latencies, prior, range(CUT + 1))
        self.back = Section(part, latencies, prior, range(CUT + 1, last + 1))
        self.score = self.front.score
        self.sections = [Section(part, latencies, prior, stages) for stages in links_of(part)]

    def of(self, context: Context) -> list[Link]:
        """Return the links of a context, the stem first. They are made once."""
        return [self._made(section, context) for section in self.sections]

    def _made(self, section: Section, context: Context) -> Link:
        columns = {name for slot in section.slots for name in self.part.slots[slot].columns}
        if not columns & set(self.part.follows):
            context = replace(context, nearest=None if context.nearest is None else 0)
        key = section.stages[0], context
        if key not in self._known:
            self._known[key] = self._link(section, context)
        return self._known[key]

    @cached_property
    def losses(self) -> Array:
        """Return all that networks can lose by kernels and scales, rising: logarithms of error."""
        losses = np.zeros(1)
        for link in self.of(next(Context.all_of(self.part))):
            own = np.unique(link.sums[SUMS.index("loss")])
            losses = np.unique((losses[:, None] + own).round(LOSS_DIGITS))
        return losses

    @cached_property
    def most_log_size(self) -> float:
        """Return a log size that no network passes."""
        most = -math.inf
        for context in Context.all_of(self.part):
            sums = sum(link.sums.max(axis=1) for link in self.of(context))
            macs, blocks, spread = (sums[SUMS.index(n)] for n in ("macs", "blocks", "spread"))
            most = max(most, self.score.log_size(macs, blocks, spread))
        return most

    def _link(self, section: Section, context: Context) -> Link:
        shape, digits = section.all_choices(context)
        items = section.items(digits, costs=True, peak=False, shape=True)
        return Link(
            shape,
            digits,
            np.stack([items[name] for name in SUMS]),
            items.get(OTHER_MS, np.zeros(0)),
            self._apart(section.stages[0]),
            section,
        )

    def _apart(self, stage: int) -> Array:
        """Return what the depths of a stage and of that before it add to the squared distance."""
        last = len(self.part.places)
        first = last - LAST_STAGES + 2  # whose depth is the first that is compared
        if stage < first:
            before = "stem.depth" if stage <= 1 else f"stage{stage - 1}.depth"
            own = "stem.depth" if stage == 0 else f"stage{stage}.depth"
            return np.zeros((len(self.part.columns[before]), len(self.part.columns[own])))
        feature = SPREAD.stop - (LAST_STAGES - 1) + stage - first
        box = self.prior.boxes[self.part.part.family]
        before_depths, depths = (
            np.log2(np.array(self.part.columns[f"stage{n}.depth"], dtype=np.float64))
            for n in (stage - 1, stage)
        )
        octaves = depths[None, :] - before_depths[:, None]
        excess: list[Array] = [np.zeros_like(octaves)] * feature
        excess += box.excess([octaves], feature)
        apart: Array = self.prior.distance_of(excess)[0] ** 2
        return apart
