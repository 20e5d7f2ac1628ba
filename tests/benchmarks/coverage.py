"""How many values nominal 90 % intervals hold: `python -m tests.benchmarks.coverage --tables DIR`.

Three claims are held to values that they have not seen.

- The published prior on networks of other spaces (`predictors.public_tables`, in DIR). Level and
  law of size are a table's own, as recipes differ. Seven regular networks over all sizes stand for
  the published ones: from them come the error near them, by leaving one out at a time, and the box
  of shapes. What shapes and kernels are worth comes from the other tables. All other networks are
  predicted with the standard deviation that `Prior.predict` forms of that, over several draws. A
  factor for standard deviations is fitted to the other tables, and judged on the one left out;
  `predictors.accuracy.HELD` is the mean of the tables' own.
- The published prior on EfficientViT's own figures, each network left out of law, error and box.
- Latencies: calibrated tables on published figures, each network left out; measured tables on
  networks of `tests.benchmarks.tables`, whose error is that of the other half of them; and a table
  of space tiny that is built here, with the error that it tells, on networks of other sessions.

The record goes to results/benchmarks/coverage.json.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lut.table import load_table
from predictors.accuracy import HELD, OWN_EXPONENT, fit_prior, load_prior
from predictors.latency import LatencyPredictor
from predictors.models.model import COVERED, DEVIATIONS
from predictors.public_tables import PublicTable, read_public_tables
from predictors.scaling import PublishedFigure
from predictors.stage_effects import (
    CLASSIFICATION_TABLES,
    KERNEL_TABLES,
    SizeLaw,
    combine,
    fit_effects,
    kernel_effects,
    shifted,
    sizes_of,
)
from predictors.worth import WORTH, Array, Reference, Worth
from results.reading import read_json
from supernet.arch import Arch, parse_resolution
from supernet.blocks import blocks_of
from supernet.official import BACKBONES
from tests.benchmarks.few_samples import TABLES
from tests.benchmarks.record import FOLDER, ROOT, write_record

REGULAR, DRAWS, NEAREST = 7, 40, 10
READERS = {
    "once_for_all": "once-for-all",
    "accel_nasbench": "accel-nasbench",
    "nasbench_mr": "nas-bench-mr cityscapes",
}
CALIBRATED = ("snapdragon8gen1-litert-fp32", "orin-tensorrt-fp16", "a100-tensorrt-fp16",
              "jetson-nano-tensorrt-fp16")  # fmt: skip
MEASURED = ("onnxruntime", "litert", "h100")
SESSIONS, NETWORKS, PASSES = 2, 100, 6


@dataclass(frozen=True)
class Shapes:
    """Log2 of depth, width and expand ratio at each stride of WORTH, and kernels: (rows, 4)."""

    depth: Array
    width: Array
    expand: Array
    beyond: Array  # log2 of what a kernel is above 5
    larger: Array  # share of kernels above 3

    @property
    def spread(self) -> Array:
        """How widths and depths change from stride to stride, as `shape.SPREAD`."""
        return np.hstack([np.diff(self.width, axis=1), np.diff(self.depth, axis=1)])

    def others(self, macs: Array) -> Array:
        """The other features of `shape.features` that vary in a table; MACs come first."""
        blocks = np.log2((2.0**self.depth).sum(axis=1, keepdims=True))
        total = np.log2(macs.sum(axis=1, keepdims=True))
        return np.hstack([total, blocks - self.width[:, -1:], self.expand, self.beyond])


def shapes_of(name: str, folder: Path, table: PublicTable) -> Shapes:
    """Shapes in the order of the table's rows."""
    genes, costs, values = TABLES[READERS[name]](folder)
    if name == "nasbench_mr":
        assert np.array_equal(values, table.value)
        return _of_branches(genes)
    found = _of_blocks(_blocks_ofa(genes) if name == "once_for_all" else _blocks_accel(genes))
    # The two readers order rows differently; equal MACs and depth at all strides are equal shapes.
    given = [costs[f"macs{stride}"] for stride in WORTH]
    ours, theirs = np.lexsort(given), np.lexsort(table.macs[:, 1:].T)
    assert np.allclose(np.array(given).T[ours], table.macs[theirs, 1:])
    order = np.empty(len(ours), dtype=np.intp)
    order[theirs] = ours
    return Shapes(*(column[order] for column in vars(found).values()))


Block = tuple[int, float, float, float]  # stride, channels, expand ratio, kernel


def _blocks_ofa(genes: Mapping[str, Any]) -> list[list[Block]]:
    stages = zip((24, 40, 80, 112, 160), (4, 8, 16, 16, 32), strict=True)
    places = [(s, at, w, b) for s, (w, at) in enumerate(stages) for b in range(4)]
    return [
        [
            (at, width, genes[f"e{s}{b}"][row], genes[f"k{s}{b}"][row])
            for s, at, width, b in places
            if b < genes[f"d{s}"][row]
        ]
        for row in range(len(genes["d0"]))
    ]


def _blocks_accel(genes: Mapping[str, Any]) -> list[list[Block]]:
    stages = list(enumerate(zip((24, 40, 80, 112, 192, 320), (4, 8, 16, 16, 32, 32), strict=True)))
    return [
        [
            (at, width, genes[f"block{s + 1}_e"][row], genes[f"block{s + 1}_k"][row])
            for s, (width, at) in stages
            for _ in range(int(genes[f"block{s + 1}_l"][row]))
        ]
        for row in range(len(genes["block0_l"]))
    ]


def _of_blocks(networks: Sequence[Sequence[Block]]) -> Shapes:
    rows = []
    for blocks in networks:
        own = [np.array([b[1:] for b in blocks if b[0] == stride]) for stride in WORTH]
        rows.append([
            [math.log2(len(at)) for at in own],
            [math.log2(at[:, 0].mean()) for at in own],
            [np.log2(at[:, 1]).mean() for at in own],
            [np.log2(np.maximum(at[:, 2], 5) / 5).mean() for at in own],
            [(at[:, 2] > 3).mean() for at in own],
        ])  # fmt: skip
    return Shapes(*np.array(rows).transpose(1, 0, 2))


def _of_branches(genes: Mapping[str, Any]) -> Shapes:
    """Of NAS-Bench-MR, whose code tells times, units and channels of 1 to 4 branches."""
    code = np.array(list(genes.values())).T[:, 2:]
    units, channels = np.zeros((2, len(code), len(WORTH)))
    at = 0
    for branches in range(1, 5):
        own = code[:, at : at + 1] * code[:, at + 1 : at + 1 + branches]
        units[:, :branches] += own
        channels[:, :branches] += own * code[:, at + 1 + branches : at + 1 + 2 * branches]
        at += 1 + 2 * branches
    none = np.zeros_like(units)
    return Shapes(np.log2(units), np.log2(channels / units), none, none, none)


# The prior on other tables.


@dataclass(frozen=True)
class Told:
    """What the other tables tell of networks of one."""

    kernel_effect: float
    kernel_std: float
    unexplained: float
    by_size: Array  # (rows,), percent, by the table's own law
    log_std: Array  # (rows,), of size by shape
    law: SizeLaw
    by_shape: Array


def told(name: str, tables: Mapping[str, PublicTable]) -> Told:
    """Learn from all tables but one."""
    table = tables[name]
    others = [other for other in CLASSIFICATION_TABLES if other != name]
    effects = combine([fit_effects(tables[other]) for other in others])
    kernels = [v for t in KERNEL_TABLES if t != name for v in kernel_effects(tables[t])]
    left = []
    for other in others:
        if not tables[other].groups.max():
            own = SizeLaw.of(sizes_of(tables[other]), tables[other].value)
            rest = [fit_effects(tables[t]) for t in others if t != other]
            errors = tables[other].value - shifted(own, tables[other], combine(rest))
            by_size = tables[other].value - own(sizes_of(tables[other]))
            left.append(float(np.var(errors) / np.var(by_size)))
    law = SizeLaw.of(sizes_of(table), table.value)
    worth = Worth.of(effects, Reference.of(table.macs))
    return Told(
        kernel_effect=float(np.mean(kernels)),
        kernel_std=float(np.std(kernels, ddof=1)),
        unexplained=math.sqrt(float(np.mean(left))),
        by_size=law(sizes_of(table)),
        log_std=worth.log_size(table.macs)[1],
        law=law,
        by_shape=shifted(law, table, effects),
    )


def claims(table: PublicTable, shapes: Shapes, known: Told) -> tuple[Array, Array, Array]:
    """Errors, standard deviations as `Prior.predict` forms them but for HELD, and distances.

    Each (draws, rows); NaN for the regular networks.
    """
    error = (100 - known.by_shape) * np.exp(-known.kernel_effect * shapes.larger.sum(axis=1))
    mean = 100 - error + np.mean(table.value - 100 + error)
    residual = table.value - mean
    of_shape = known.law.exponent * (known.law.ceiling - known.by_shape) * known.log_std
    features = np.hstack([shapes.others(table.macs), known.unexplained * shapes.spread])
    found = []
    for draw in range(DRAWS):
        regular = regular_networks(table, shapes, np.random.default_rng(draw))
        left_out = residual[regular] - residual[regular].mean()
        left_out *= REGULAR / (REGULAR - 1)
        near = math.sqrt(np.mean(left_out**2) * REGULAR / (REGULAR - 2))
        low, high = features[regular].min(axis=0), features[regular].max(axis=0)
        excess = np.minimum(features - low, 0) + np.maximum(features - high, 0)
        distance = np.sqrt((excess**2).sum(axis=1))
        growth = np.hypot(1, distance) * 2 ** (known.law.exponent * np.maximum(-excess[:, 0], 0))
        kernels = np.abs(shapes.larger - shapes.larger[regular].mean(axis=0)).sum(axis=1)
        of_kernels = error * known.kernel_std * np.sqrt(kernels)
        std = np.sqrt((near * growth) ** 2 + of_shape**2 + of_kernels**2)
        row = np.array([residual, std, distance])
        row[:, regular] = np.nan
        found.append(row)
    errors, stds, distances = np.array(found).transpose(1, 0, 2)
    return errors, stds, distances


def regular_networks(table: PublicTable, shapes: Shapes, rng: np.random.Generator) -> Any:
    """Indices of networks of nearly the median shape, one in each seventh of the sizes."""
    columns = np.hstack([shapes.spread, shapes.expand, shapes.beyond, shapes.larger])
    spread = columns.std(axis=0)
    off = (columns - np.median(columns, axis=0))[:, spread > 1e-9] / spread[spread > 1e-9]
    irregular = (off**2).sum(axis=1)
    macs = table.macs.sum(axis=1)
    edges = np.quantile(macs, np.linspace(0, 1, REGULAR + 1))
    chosen: list[int] = []
    for low, high in pairwise(edges):
        alike = np.flatnonzero(
            (macs >= low) & (macs <= high) & ~np.isin(np.arange(len(macs)), chosen)
        )
        chosen.append(rng.choice(alike[np.argsort(irregular[alike], kind="stable")[:NEAREST]]))
    return np.array(chosen)


def on_tables(folder: Path) -> dict[str, Any]:
    tables = read_public_tables(folder)
    found = {}
    for name in READERS:
        found[name] = claims(
            tables[name], shapes_of(name, folder, tables[name]), told(name, tables)
        )
    ratios = {
        name: (r := np.abs(errors / stds).ravel())[~np.isnan(r)]
        for name, (errors, stds, _) in found.items()
    }
    factors = {name: float(np.quantile(r, COVERED)) / DEVIATIONS for name, r in ratios.items()}
    result: dict[str, Any] = {}
    for name, (errors, stds, distances) in found.items():
        others = float(np.mean([factor for other, factor in factors.items() if other != name]))
        by_draw = np.nanmean(
            np.where(np.isnan(errors), np.nan, np.abs(errors) <= DEVIATIONS * HELD * stds), axis=1
        )
        result[name] = {
            "networks": errors.shape[1],
            "predictions": len(ratios[name]),
            "std_of_errors": _rounded(np.nanstd(errors)),
            "median_std": _rounded(HELD * np.nanmedian(stds)),
            "coverage_without_factor": covered(ratios[name]),
            "factor_of_its_own": _rounded(factors[name]),
            "factor_of_the_others": _rounded(others),
            "coverage_by_the_others": covered(ratios[name] / others),
            "coverage": covered(ratios[name] / HELD),
            "coverage_by_draw_10_to_90": [_rounded(q) for q in np.quantile(by_draw, (0.1, 0.9))],
            "coverage_by_distance": _by_distance(errors / stds / HELD, distances),
        }
    return {"factor": HELD, "mean_factor": _rounded(np.mean(list(factors.values()))), **result}


def _by_distance(ratios: Array, distances: Array) -> dict[str, Any]:
    found = {}
    for low, high in ((0.0, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, math.inf)):
        inside = (distances >= low) & (distances < high)
        if inside.sum() >= 400:
            key = f"{low:g} to {high:g} octaves"
            found[key] = {
                "predictions": int(inside.sum()),
                "coverage": covered(np.abs(ratios[inside])),
            }
    return found


def covered(ratios: Array) -> float:
    """Share of errors over standard deviations that a 90 % interval holds."""
    return _rounded(np.mean(np.abs(ratios) <= DEVIATIONS))


def _rounded(number: Any) -> float:
    return float(f"{float(number):.4g}")


# The prior on its own figures.


def on_own_figures() -> dict[str, Any]:
    found: dict[str, Any] = {}
    every: list[float] = []
    for dataset in ("imagenet", "cityscapes", "ade20k", "sa1b"):
        points = [
            PublishedFigure(
                figure.name,
                replace(BACKBONES[figure.name], resolution=parse_resolution(figure.resolution)),
                figure.value,
            )
            for figure in load_prior(dataset).residuals
        ]
        exponent = None if dataset in OWN_EXPONENT else load_prior("imagenet").law.exponent
        ratios = []
        for name in dict.fromkeys(point.name for point in points):
            rest = [point for point in points if point.name != name]
            prior = fit_prior(rest, dataset, "", exponent)
            for point in points:
                if point.name == name:
                    said = prior.predict(point.arch)
                    ratios.append((point.value - said.mean) / said.std)
        found[dataset] = {"figures": len(ratios), "coverage": covered(np.array(ratios))}
        every += ratios
    return {**found, "all": {"figures": len(every), "coverage": covered(np.array(every))}}


# Latencies.


def calibrated() -> dict[str, Any]:
    """Published figures by fits without their network, and the error of the other networks."""
    found: dict[str, Any] = {}
    every: list[float] = []
    for name in CALIBRATED:
        table = load_table(ROOT / "lut" / "tables" / f"{name}.csv")
        rows = [r for r in table.sidecar.written["calibration"]["rows"] if r["fitted"]]
        ratios = []
        for row in rows:
            others = [other for other in rows if other["arch"] != row["arch"]]
            logs = [math.log(o["leave_out_ms"] / o["published_ms"]) for o in others]
            sigma = math.sqrt(sum(log**2 for log in logs) / len(logs))
            seen = [other["published_ms"] for other in others]
            said = row["leave_out_ms"]
            away = max(0.0, math.log(min(seen) / said), math.log(said / max(seen)))
            ratios.append((row["published_ms"] - said) / (said * sigma * (1 + away)))
        found[name] = {"figures": len(ratios), "coverage": covered(np.array(ratios))}
        every += ratios
    return {**found, "all": {"figures": len(every), "coverage": covered(np.array(every))}}


def measured() -> dict[str, Any]:
    """Networks of the records of tables, each half by the error of the other, over draws."""
    found: dict[str, Any] = {}
    pooled = []
    for runtime in MEASURED:
        record = read_json(FOLDER / f"tables-{runtime}.json", dict[str, Any])
        pairs = np.array([(n["measured_ms"], n["predicted_ms"]) for n in record["networks"]])
        relative = pairs[:, 1] / pairs[:, 0] - 1
        inside = []
        for draw in range(DRAWS):
            order = np.random.default_rng(draw).permutation(len(pairs))
            half = len(pairs) // 2
            for kept, out in ((order[:half], order[half:]), (order[half:], order[:half])):
                std = pairs[out, 1] * math.sqrt(np.mean(relative[kept] ** 2))
                inside += ((pairs[out, 0] - pairs[out, 1]) / std).tolist()
        found[runtime] = {
            "networks": len(pairs),
            "coverage": covered(np.array(inside)),
            "bias_percent": _rounded(100 * relative.mean()),
            "std_percent": _rounded(100 * relative.std()),
        }
        pooled.append((len(pairs), found[runtime]["coverage"]))
    total = sum(count for count, _ in pooled)
    share = sum(count * share for count, share in pooled) / total
    return {**found, "all": {"networks": total, "coverage": _rounded(share)}}


def sessions(work: Path) -> dict[str, Any]:
    """A table built here, by what it says of itself, on networks of other sessions."""
    folder = work / "tables"
    if not list(folder.glob("*.csv")):
        run("lut.build", "--device", "coverage", "--runtime", "onnxruntime", "--space", "tiny",
            "--freeze", "resolution=64", "--networks", 24, "--passes", PASSES, "--out", folder,
            "--run-folder", work / "build", "--quiet")  # fmt: skip
    (path,) = folder.glob("*.csv")
    predictor = LatencyPredictor(load_table(path))
    found: dict[str, Any] = {}
    every: list[float] = []
    for session in range(SESSIONS):
        out = work / f"session{session}"
        if not (out / "validation.json").exists():
            run("lut.validate", "--table", path, "--networks", NETWORKS, "--passes", PASSES,
                "--seed", 1 + session, "--out", out, "--quiet")  # fmt: skip
        told = read_json(out / "validation.json", dict[str, Any])
        ratios = []
        for network in told["networks"]:
            said = predictor.predict(blocks_of(Arch.from_dict(network["arch"])))
            ratios.append((network["measured_ms"] - said.latency_ms) / said.std_ms)
        found[f"session {session}"] = {
            "networks": len(ratios),
            "coverage": covered(np.array(ratios)),
            "scale": _rounded(told["scale"]),
        }
        every += ratios
    return {**found, "all": {"networks": len(every), "coverage": covered(np.array(every))}}


def run(module: str, *arguments: Any) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", type=Path, required=True, metavar="DIR")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    flags = parser.parse_args()
    fields = {
        "nominal": COVERED,
        "published_prior_on_other_tables": on_tables(flags.tables),
        "published_prior_on_networks_left_out": on_own_figures(),
        "calibrated_latencies": calibrated(),
        "measured_latencies": measured(),
        "measured_latencies_of_other_sessions": sessions(flags.work),
    }
    command = "python -m tests.benchmarks.coverage --tables DIR --work DIR"
    write_record("coverage", fields, command=command)


if __name__ == "__main__":
    main()
