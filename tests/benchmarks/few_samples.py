"""Predictors on few evaluated networks: `python -m tests.benchmarks.few_samples --tables DIR`.

Public tables of other spaces, whose files DIR holds: Once-for-All's MobileNetV3 subnets
(`mbnv3w10_*.csv` of IntelLabs/DyNAS-T, Apache-2.0), Accel-NASBench
(`accel_nasbench_dataset_jsons.tar.gz`, made of afzalxo/Accel-NASBench, Apache-2.0), NAS-Bench-MR's
Cityscapes (`nasbench_mr.csv.gz`, made of dingmyu/NCP, BSD-2).

Of each draw that many networks are fitted, as `predictors.fit` does, and up to 1500 others are
predicted: with costs by stage (MACs, blocks, sums of kernels and expand ratios), or with what a CSV
has at hand, MACs and parameters in all. The record goes to results/benchmarks/few_samples.json.
"""

import argparse
import ast
import csv
import gzip
import io
import json
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, t

from predictors.models.choose import fit_table
from predictors.models.model import DEVIATIONS, MEMBERS
from predictors.models.table import Array, Table
from predictors.ridge import fit_ridge
from tests.benchmarks.record import write_record

SIZES, DRAWS, TESTED = (50, 100, 200, 400), 20, 1500
FLOORS = {  # Kendall's tau that must be reached, by size
    "once-for-all": (0.885, 0.905, 0.918, 0.930),
    "accel-nasbench": (0.770, 0.835, 0.870, 0.885),
    "nas-bench-mr cityscapes": (0.53, 0.63, 0.70, 0.73),
}
Costs = dict[str, Array]
STRIDES = (4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    for name, read in TABLES.items():
        genes, costs, values = read(arguments.tables)
        at_hand = {key: costs[key] for key in ("macs", "params")}
        for what, features in (("costs by stage", costs), ("MACs and parameters", at_hand)):
            table = Table.of(genes, values, features)
            for size, floor in zip(SIZES, FLOORS[name], strict=True):
                row = judge(table, size, arguments.draws)
                rows.setdefault(name, {}).setdefault(what, {})[str(size)] = row
                print(f"{name}, {what}, {size}: {json.dumps(row)} (at least {floor})", flush=True)
    fields = {
        "draws": arguments.draws,
        "tested": TESTED,
        "floors": {name: dict(zip(map(str, SIZES), f, strict=True)) for name, f in FLOORS.items()},
        "rows": rows,
    }
    command = "python -m tests.benchmarks.few_samples --tables DIR"
    write_record("few_samples", fields, command=f"{command} --draws {arguments.draws}")


def judge(table: Table, size: int, draws: int) -> dict[str, Any]:
    """Figures of models fitted to `size` rows, on others; intervals are of the mean of draws."""
    taus: dict[str, list[float]] = {}
    within, errors, seconds, kinds = [], [], [], []
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(table))
        kept, out = table.take(order[:size]), table.take(order[size : size + TESTED])
        started = time.perf_counter()
        model, _ = fit_table(kept)
        seconds.append(time.perf_counter() - started)
        mean, std = model.predict(out.genes, out.features)
        within.append(np.abs(mean - out.values) <= DEVIATIONS * std)
        errors.append(np.abs(mean - out.values).mean())
        kinds.append(model.kind)
        taus.setdefault("chosen", []).append(kendalltau(mean, out.values).statistic)
        z = model.encoding.encode(out.genes, out.features).z
        for name in MEMBERS:
            own = kendalltau(model.members.predict(name, z), out.values).statistic
            taus.setdefault(name, []).append(own)
        plain = kendalltau(one_hot_ridge(kept, out), out.values).statistic
        taus.setdefault("one-hot ridge", []).append(plain)
    chosen = np.array(taus["chosen"])
    half = float(t.ppf(0.975, draws - 1) * chosen.std(ddof=1) / np.sqrt(draws))
    pooled = np.concatenate(within)
    return {
        "tau": round(float(chosen.mean()), 4),
        "tau_95": [round(float(chosen.mean()) - half, 4), round(float(chosen.mean()) + half, 4)],
        "tau_of_others": {
            name: round(float(np.mean(found)), 4)
            for name, found in taus.items()
            if name != "chosen"
        },
        "mae": round(float(np.mean(errors)), 4),
        "coverage_of_90": round(float(pooled.mean()), 4),
        "coverage_by_draw": [
            round(float(p), 3) for p in np.quantile([w.mean() for w in within], [0.1, 0.9])
        ],
        "predictions": len(pooled),
        "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "fit_s": round(float(np.median(seconds)), 2),
    }


def one_hot_ridge(kept: Table, out: Table) -> Array:
    """What the project had before: effects of choices that add up."""

    def columns(table: Table) -> Array:
        parts = [
            np.nan_to_num(c)[:, None] == np.unique(np.nan_to_num(kept.genes[n]))
            for n, c in table.genes.items()
        ]
        return np.hstack(parts).astype(float)

    return fit_ridge(columns(kept), kept.values).predict(columns(out))


Read = tuple[dict[str, NDArray[Any]], Costs, Array]


def once_for_all(folder: Path) -> Read:
    """Distinct subnets of width 1.0; a stage's later blocks are absent where it is shallow."""
    widths, strides = (16, 24, 40, 80, 112, 160), (2, 2, 2, 1, 2)
    seen: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for path in sorted(folder.glob("mbnv3w10_*.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                net = ast.literal_eval(row["Sub-network"])
                kernels, expands = np.reshape(net["ks"], (5, 4)), np.reshape(net["e"], (5, 4))
                stages = tuple(
                    tuple(zip(kernels[s][:d].tolist(), expands[s][:d].tolist(), strict=True))
                    for s, d in enumerate(net["d"])
                )
                top1 = float(row["Top-1 Acc (%)"])
                if top1 > 0:
                    seen.setdefault(stages, []).append((top1, float(row["Model Parameters"])))
    nets = list(seen)
    genes: dict[str, NDArray[Any]] = {}
    for s in range(5):
        genes[f"d{s}"] = np.array([float(len(net[s])) for net in nets])
        for block in range(4):
            for index, letter in enumerate("ke"):
                column = [float(n[s][block][index]) if block < len(n[s]) else np.nan for n in nets]
                genes[f"{letter}{s}{block}"] = np.array(column)
    stem = 27 * 16 * 112**2 + (9 * 16 + 16 * 16) * 112**2
    blocks = [
        [
            (widths[s + 1], expand, kernel, strides[s] if index == 0 else 1)
            for s, stage in enumerate(net)
            for index, (kernel, expand) in enumerate(stage)
        ]
        for net in nets
    ]
    costs = by_stride(blocks, stem, 112, 16)
    costs["params"] = np.array([found[0][1] for found in seen.values()])
    for index, what in enumerate(("kernels", "expands")):
        for s in range(5):
            costs[f"{what}{s}"] = np.array([sum(b[index] for b in net[s]) for net in nets], float)
    return genes, costs, np.array([np.mean([found[0] for found in seen[net]]) for net in nets])


def accel_nasbench(folder: Path) -> Read:
    """All networks; seven stages, of expand ratio, kernel, layers and squeeze-and-excitation."""
    widths, strides = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 2, 1, 2, 1)
    rows = []
    with tarfile.open(folder / "accel_nasbench_dataset_jsons.tar.gz") as tar:
        for member in tar:
            if member.name.endswith(".json"):
                file = tar.extractfile(member)
                assert file is not None
                rows.append(json.load(file))
    genes: dict[str, NDArray[Any]] = {
        f"block{b}_{what}": np.array(
            [float(row["architecture"][f"block{b}_{what}"]) for row in rows]
        )
        for b in range(7)
        for what in ("e", "k", "l", "se")
    }
    blocks = [
        [
            (widths[b], a[f"block{b}_e"], a[f"block{b}_k"], strides[b] if layer == 0 else 1)
            for b in range(7)
            for layer in range(a[f"block{b}_l"])
        ]
        for a in (row["architecture"] for row in rows)
    ]
    costs = by_stride(blocks, 27 * 32 * 112**2, 112, 32)
    for name in ("macs", "params"):
        costs[name] = np.array([row["model_info"][name] for row in rows])
    for b in range(7):
        layers = genes[f"block{b}_l"]
        for what in ("e", "k", "se"):
            costs[f"{what}_sum{b}"] = layers * genes[f"block{b}_{what}"]
    return genes, costs, np.array([row["metrics"]["val_top1"] for row in rows])


def nas_bench_mr(folder: Path) -> Read:
    """Cityscapes mIoU; four stages of 1 to 4 branches, each with units and channels, and blocks."""
    text = gzip.decompress((folder / "nasbench_mr.csv.gz").read_bytes()).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    names = list(rows[0])[:27]
    genes: dict[str, NDArray[Any]] = {n: np.array([float(row[n]) for row in rows]) for n in names}
    costs = {"macs": np.array([float(row["gmacs"]) for row in rows])}
    costs["params"] = np.array([float(row["params_m"]) for row in rows])
    work: Costs = {}
    units: Costs = {}
    at = 2
    for stage in range(1, 5):
        repeats = genes[names[at]]
        own = np.zeros(len(rows))
        for branch in range(stage):
            depth = repeats * genes[names[at + 1 + branch]]
            amount = depth * genes[names[at + 1 + stage + branch]] ** 2
            costs[f"stage{stage}.branch{branch}"] = amount
            work[f"branch{branch}"] = work.get(f"branch{branch}", 0) + amount
            units[f"units{branch}"] = units.get(f"units{branch}", 0) + depth
            own += amount / 4.0**branch
        costs[f"stage{stage}"] = own
        at += 1 + 2 * stage
    return genes, costs | work | units, np.array([float(row["seg"]) for row in rows])


def by_stride(
    networks: list[list[tuple[int, float, int, int]]], stem: float, size: int, channels: int
) -> Costs:
    """MACs and blocks by stride, of inverted residual blocks (channels, expand, kernel, stride)."""
    found = [_by_stride(blocks, size, channels) for blocks in networks]
    costs = {f"macs{s}": np.array([macs[s] for macs, _ in found]) for s in STRIDES}
    costs |= {f"blocks{s}": np.array([float(blocks[s]) for _, blocks in found]) for s in STRIDES}
    return costs | {"macs": np.array([sum(macs.values()) + stem for macs, _ in found])}


def _by_stride(
    blocks: list[tuple[int, float, int, int]], size: int, channels: int
) -> tuple[Mapping[int, float], Mapping[int, int]]:
    macs, count = dict.fromkeys((2, *STRIDES), 0.0), dict.fromkeys((2, *STRIDES), 0)
    for width, expand, kernel, stride in blocks:
        hidden, inner = channels * expand, size // stride
        total = channels * hidden * size**2 * (expand != 1)
        total += (kernel**2 * hidden + hidden * width) * inner**2
        size, channels = inner, width
        macs[224 // size] += total
        count[224 // size] += 1
    return macs, count


TABLES: dict[str, Callable[[Path], Read]] = {
    "once-for-all": once_for_all,
    "accel-nasbench": accel_nasbench,
    "nas-bench-mr cityscapes": nas_bench_mr,
}

if __name__ == "__main__":
    main()
