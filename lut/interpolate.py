"""Latency of blocks that were not measured, from those of their kind that were.

A Gaussian process on log(ms per MAC): a straight line in the logarithms of the shape, plus what
nearby shapes have in common beyond it. It gives a standard deviation with every value, which
tells which block to measure next. What is measured is never smoothed: a measured block keeps
its own value.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from supernet.blocks import Block
from supernet.cost import cost_of, ops_of

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor

Array = npt.NDArray[np.float64]
VECTOR = 16  # channels that a CPU works on at once, at most
FITTED = 300  # rows that the length scales are fitted on
MOST_ROWS = 2500  # of a kind; beyond, rows are thinned out
NOISE = 0.01  # relative, of a latency, beside its own standard deviation
BEYOND = 1e-6


@dataclass(frozen=True, slots=True)
class Guess:
    """The latency of one block, in ms."""

    latency_ms: float
    std_ms: float
    outside: bool  # beyond the measured range of some feature


@lru_cache(maxsize=1 << 17)
def features(block: Block) -> tuple[float, ...]:
    """Return what a latency depends on: sizes in logarithms, and how channels fill vectors."""
    height, width = block.out_size
    sizes = (
        block.in_channels,
        block.out_channels,
        block.mid_channels or 1,
        block.height * block.width,
        height * width,
        max(block.num_heads, 1),
        max(block.head_dim, 1),
    )
    hidden = [op.channels for op in ops_of(block) if op.channels] or [block.out_channels]
    waste = sum(math.ceil(c / VECTOR) * VECTOR / c for c in hidden) / len(hidden)
    flags = (
        float(block.kernel_size),
        float(block.stride),
        float(block.residual),
        float(3 in block.scales),
        float(5 in block.scales),
        float(len(block.scales)),
        float(block.height * block.width <= block.head_dim),
        waste,
    )
    return (*(math.log(size) for size in sizes), *flags)


@lru_cache(maxsize=1 << 17)
def work(block: Block) -> float:
    """Return MACs, or activations moved where a block has next to none."""
    cost = cost_of(block)
    return float(max(cost.macs, cost.moved_elements))


@lru_cache(maxsize=1 << 17)
def _trend(block: Block) -> tuple[float, ...]:
    cost = cost_of(block)
    depthwise = sum(op.macs for op in ops_of(block) if op.kind == "depthwise")
    return (
        1.0,
        math.log(work(block)),
        math.log(max(cost.moved_elements, 1)),
        math.log(1 + depthwise),
        math.log(max(cost.params, 1)),
    )


class Interpolator:
    """Fitted on measured blocks of any kinds; a kind with fewer than 3 rows has no guess."""

    def __init__(
        self,
        latencies_ms: Mapping[Block, float],
        stds_ms: Mapping[Block, float] | None = None,
        *,
        most_rows: int = MOST_ROWS,
        seed: int = 0,
    ) -> None:
        stds_ms = stds_ms or {}
        by_kind: dict[str, list[Block]] = {}
        for block in latencies_ms:
            if latencies_ms[block] > 0 and work(block) > 0:
                by_kind.setdefault(block.kind, []).append(block)
        rng = np.random.default_rng(seed)
        self._of_kind: dict[str, _Kind] = {}
        for kind, blocks in by_kind.items():
            if len(blocks) > most_rows:
                kept = sorted(rng.choice(len(blocks), most_rows, replace=False).tolist())
                blocks = [blocks[i] for i in kept]
            if len(blocks) >= 3:
                ms = np.array([latencies_ms[b] for b in blocks])
                std = np.array([stds_ms.get(b, 0.0) for b in blocks])
                self._of_kind[kind] = _Kind(blocks, ms, std / ms, rng)

    def can(self, block: Block) -> bool:
        """Tell whether there is a guess for blocks of this kind."""
        return block.kind in self._of_kind

    def guess(self, blocks: Sequence[Block]) -> list[Guess]:
        """Return the latency of every block. Raises KeyError for a kind with no guess."""
        guesses: dict[Block, Guess] = {}
        by_kind: dict[str, list[Block]] = {}
        for block in blocks:
            by_kind.setdefault(block.kind, []).append(block)
        for kind, same in by_kind.items():
            guesses.update(zip(same, self._of_kind[kind].guess(same), strict=True))
        return [guesses[block] for block in blocks]

    def most_uncertain(self, candidates: Iterable[Block], count: int) -> list[Block]:
        """Return the `count` blocks whose measurement tells most, each given those before it.

        Of every kind in proportion to its summed uncertainty in milliseconds.
        """
        by_kind: dict[str, list[Block]] = {}
        for block in candidates:
            by_kind.setdefault(block.kind, []).append(block)
        doubt = {
            kind: sum(g.std_ms for g in self._of_kind[kind].guess(blocks))
            if kind in self._of_kind
            else math.inf
            for kind, blocks in by_kind.items()
        }
        chosen: list[Block] = []
        for kind in [kind for kind, value in doubt.items() if math.isinf(value)]:
            chosen += by_kind.pop(kind)
        total = sum(doubt[kind] for kind in by_kind) or 1.0
        left = count - len(chosen)
        for kind, blocks in by_kind.items():
            share = round(left * doubt[kind] / total)
            chosen += self._of_kind[kind].most_uncertain(blocks, share)
        return chosen[:count]


class _Kind:
    """The process of one kind of block."""

    def __init__(
        self, blocks: Sequence[Block], ms: Array, noise: Array, rng: np.random.Generator
    ) -> None:
        raw = _matrix(features, blocks)
        self._low, self._high = raw.min(axis=0), raw.max(axis=0)
        self._centre = raw.mean(axis=0)
        spread = raw.std(axis=0)
        self._varies = spread > 1e-9
        self._spread = np.where(self._varies, spread, 1.0)
        target = np.log(ms / np.array([work(b) for b in blocks]))
        trend = _matrix(_trend, blocks)
        weight = 1 / np.hypot(noise, NOISE)
        ridge = 1e-3 * np.eye(trend.shape[1])
        weighted = trend * weight[:, None]
        self._line = np.linalg.solve(weighted.T @ weighted + ridge, weighted.T @ (target * weight))
        residual = target - trend @ self._line
        x = self._scaled(raw)
        alpha = noise**2 + NOISE**2
        self._scale = max(float(residual.std()), 1e-3)
        kernel = self._fit_kernel(x, residual / self._scale, alpha / self._scale**2, rng)
        self._process = _process(kernel, alpha / self._scale**2, fixed=True)
        self._process.fit(x, residual / self._scale)

    def guess(self, blocks: Sequence[Block]) -> list[Guess]:
        raw = _matrix(features, blocks)
        mean, std = self._process.predict(self._scaled(raw), return_std=True)
        logs = mean * self._scale + _matrix(_trend, blocks) @ self._line
        outside = ((raw < self._low - BEYOND) | (raw > self._high + BEYOND)).any(axis=1)
        guesses = []
        for block, log, sigma, out in zip(blocks, logs, std * self._scale, outside, strict=True):
            ms = float(np.exp(log)) * work(block)
            guesses.append(Guess(ms, ms * float(sigma), bool(out)))
        return guesses

    def most_uncertain(self, blocks: Sequence[Block], count: int) -> list[Block]:
        """Choose greedily the largest variance in ms, by a pivoted Cholesky factorisation."""
        count = min(count, len(blocks))
        if count <= 0:
            return []
        x = self._scaled(_matrix(features, blocks))
        ms = np.array([g.latency_ms for g in self.guess(blocks)])
        known = self._process.X_train_
        kernel = self._process.kernel_
        cross = kernel(x, known)
        half = np.linalg.solve(self._process.L_, cross.T)  # posterior = kernel - half^T half
        variance = np.maximum(kernel.diag(x) - (half**2).sum(axis=0), 0.0)
        factors = np.zeros((count, len(blocks)))
        chosen = []
        for step in range(count):
            pick = int(np.argmax(variance * ms**2))
            chosen.append(pick)
            column = kernel(x, x[pick : pick + 1])[:, 0] - half.T @ half[:, pick]
            column -= factors[:step].T @ factors[:step, pick]
            factors[step] = column / math.sqrt(variance[pick] + 1e-9)
            variance = np.maximum(variance - factors[step] ** 2, 0.0)
            variance[chosen] = -1.0
        return [blocks[i] for i in chosen]

    def _scaled(self, raw: Array) -> Array:
        return np.asarray(((raw - self._centre) / self._spread)[:, self._varies])

    def _fit_kernel(self, x: Array, y: Array, alpha: Array, rng: np.random.Generator) -> Any:
        """Fit the length scales, to some of the rows."""
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern

        dimensions = max(x.shape[1], 1)
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(
            np.full(dimensions, 3.0), (0.2, 50.0), nu=2.5
        )
        if not x.shape[1] or len(x) < 8:
            return kernel
        some = rng.choice(len(x), min(FITTED, len(x)), replace=False)
        process = _process(kernel, alpha[some], fixed=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a scale at its bound: the feature hardly matters
            process.fit(x[some], y[some])
        return process.kernel_


def _process(kernel: Any, alpha: Array, *, fixed: bool) -> "GaussianProcessRegressor":
    from sklearn.gaussian_process import GaussianProcessRegressor

    optimizer = None if fixed else _quick_descent
    return GaussianProcessRegressor(kernel, alpha=alpha, optimizer=optimizer)


def _quick_descent(objective: Any, start: Array, bounds: Array) -> tuple[Array, float]:
    """Take a few steps, which are enough: length scales matter within a factor of two."""
    from scipy.optimize import minimize

    box: Any = bounds.tolist()
    best = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": 25}
    )
    return best.x, float(best.fun)


def _matrix(function: Any, blocks: Sequence[Block]) -> Array:
    return np.array([function(block) for block in blocks], dtype=np.float64)
