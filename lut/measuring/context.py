"""What blocks cost in a network beyond what they cost alone, from networks measured whole.

    network = fixed + by_params * parameters + by_peak * peak activations + sum of factor * block

Blocks are timed one by one in memory that small networks have touched. A network reads all its
weights in one go and touches as much memory as its largest pair of tensors needs; and caches
are shared otherwise by blocks whose hidden tensor fits into a core's own cache than by those
whose tensor does not. All of that is small, differs between runtimes, and is the same for blocks
of a group. So a ridge regression on a few dozen random networks finds it: all factors are held
near one common scale, all terms near 0 and not below.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lut.rows import Entry
from lut.terms import NetworkTerms, params_m, peak_mb
from supernet.arch import LOCAL_KINDS, MIXER_KINDS
from supernet.blocks import Block

CACHE_MB = 2.0  # of a core's own, about: level 2 of a present CPU
WIDE_KERNEL = 7
ERROR = 0.015  # of a network, relative: what is left beside these
FACTOR_STD = 0.03  # of a group's factor around the common scale
TERM_SHARE = 0.02  # of a latency: what a term may well take
GROUPS = ("mixers", "wide_kernels", "beyond_cache", "within_cache", "others")


@dataclass(frozen=True, slots=True)
class Context:
    """How blocks cost more in a network than alone, on one device and runtime."""

    terms: NetworkTerms
    factors: Mapping[str, float]  # by group, relative to terms.scale

    def apply(self, entries: Mapping[Block, Entry]) -> dict[Block, Entry]:
        """Return the rows as they count in a network."""
        applied = {}
        for block, entry in entries.items():
            factor = self.factors[group_of(block)]
            applied[block] = replace(
                entry,
                latency_ms=entry.latency_ms * factor,
                latency_std_ms=entry.latency_std_ms * factor,
            )
        return applied


def group_of(block: Block) -> str:
    """Return the one of GROUPS that a block is in."""
    if block.kind in MIXER_KINDS:
        return "mixers"
    if block.kind not in LOCAL_KINDS:
        return "others"
    if block.kernel_size >= WIDE_KERNEL:
        return "wide_kernels"
    hidden_mb = block.mid_channels * block.height * block.width * 4 / 1e6
    return "beyond_cache" if hidden_mb > CACHE_MB else "within_cache"


def fit_context(
    entries: Mapping[Block, Entry],
    networks: Sequence[Sequence[Block]],
    measured_ms: Sequence[float],
    batch: int,
) -> Context:
    """Fit a Context to at least two networks; with few of them little moves.

    Args:
        entries: of every block that the networks have.
        measured_ms: of the whole networks, per image.

    Errors count relatively.
    """
    from scipy.optimize import lsq_linear

    measured = np.asarray(measured_ms, float)
    sums = np.zeros((len(networks), len(GROUPS)))
    for row, blocks in zip(sums, networks, strict=True):
        for block in blocks:
            row[GROUPS.index(group_of(block))] += entries[block].latency_ms
    terms = np.array([[1.0, params_m(b), peak_mb(b) * batch] for b in networks]) / batch
    units = TERM_SHARE * np.median(measured[:, None] / terms, axis=0)  # ms for each
    scale = float(np.exp(np.log(measured / sums.sum(axis=1)).mean()))
    inputs = np.column_stack([scale * sums, terms * units, scale * sums.sum(axis=1)])
    # unknowns: each group's factor less the scale's, the terms, the scale; around this centre
    centre = np.array([0.0] * len(GROUPS) + [0.0] * terms.shape[1] + [1.0])
    stds = np.array([FACTOR_STD] * len(GROUPS) + [1.0] * terms.shape[1] + [1.0])
    rows = np.vstack([inputs / measured[:, None] / ERROR, np.diag(1 / stds)])
    wanted = np.concatenate([np.ones(len(measured)) / ERROR, centre / stds])
    lower = np.array([-0.5] * len(GROUPS) + [0.0] * terms.shape[1] + [0.5])
    upper = np.array([0.5] * len(GROUPS) + [np.inf] * terms.shape[1] + [2.0])
    x = lsq_linear(rows, wanted, bounds=(lower, upper)).x
    common = float(x[-1])
    fixed_ms, by_params, by_peak = (x[len(GROUPS) : -1] * units).tolist()
    return Context(
        NetworkTerms(
            fixed_ms=fixed_ms,
            scale=scale * common,
            ms_per_m_params=by_params,
            ms_per_peak_mb=by_peak,
        ),
        {name: 1 + float(x[i]) / common for i, name in enumerate(GROUPS)},
    )
