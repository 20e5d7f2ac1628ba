"""Predictors on evaluated subnets: `python -m tests.benchmarks.evaluated_subnets --work DIR`.

For space `tiny` and a part of space `b`, at 64 px on pictures that are made here: a supernet is
trained, random subnets of it are evaluated, and forty of them again with statistics from other
pictures. What DIR holds already is taken: NAME/supernet, NAME/subnets.jsonl, NAME/again.jsonl. Then
the plain ridge on choices, the models' ridge and what `predictors.fit` chooses are held to folds
that none of them has seen, in ten different splits; intervals are of the mean of splits.

The record goes to results/benchmarks/evaluated_subnets.json. With nothing in DIR it takes an hour.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, t

from predictors.evaluated_space import space_of_subnets
from predictors.evaluations import Evaluations, read_evaluations
from predictors.learned import table_of
from predictors.models.choose import fit_table
from predictors.models.judge import noise_ceiling
from predictors.models.model import DEVIATIONS
from predictors.models.table import Array, Table
from results.reading import read_json
from tests.benchmarks.few_samples import one_hot_ridge
from tests.benchmarks.record import ROOT, write_record

FOLDS, SPLITS = 4, 10
AGAIN = 40  # subnets that are evaluated twice
PICTURES = ("--limit", "1000", "--recalibration-images", "256", "--workers", "0")
PART_OF_B = (
    "stem.width=8,16", "stage1.width=16,24", "stage2.width=32,48", "stage3.width=64,96,128",
    "stage4.width=128,192,256", "stage1.depth=1,2", "stage2.depth=1,2", "stage3.depth=1,2,3",
    "stage4.depth=1,2,3,4", "stage1.kernel_size=3", "stage2.kernel_size=3",
    "stage3.kernel_size=3,5", "stage1.expand_ratio=3,4", "stage2.expand_ratio=3,4",
    "stage3.expand_ratio=3,4",
)  # fmt: skip
TRAINED = {
    "tiny": ("--space", "tiny", "--freeze", "resolution=64", "--steps", "1100"),
    "b": (
        *("--space", "b", *(part for own in PART_OF_B for part in ("--freeze", own))),
        *("--resolution", "64", "--batch-size", "16", "--random-subnets", "1", "--steps", "640"),
    ),
}
SUBNETS = {"tiny": 130, "b": 130}


def make(name: str, folder: Path) -> None:
    """Train and evaluate whatever is not there."""
    weights = folder / "supernet" / "model.safetensors"
    if not weights.exists():
        run("supernet.train", *TRAINED[name], "--out", folder / "supernet")
    if not (folder / "subnets.jsonl").exists():
        run("supernet.evaluate", "--weights", weights, "--sample", SUBNETS[name], *PICTURES,
            "--out", folder / "subnets.jsonl")  # fmt: skip
    if not (folder / "again.jsonl").exists():
        lines = (folder / "subnets.jsonl").read_text().splitlines(keepends=True)
        first = [line for line in lines if '"metric": "top1"' in line][:AGAIN]
        (folder / "first.jsonl").write_text("".join(first))
        run("supernet.evaluate", "--weights", weights, "--archs", folder / "first.jsonl", "--seed",
            1, *PICTURES, "--out", folder / "again.jsonl")  # fmt: skip


def run(module: str, *arguments: Any) -> None:
    argv = [sys.executable, "-m", module, *map(str, arguments), "--quiet"]
    subprocess.run(argv, cwd=ROOT, check=True)


def judge(table: Table) -> dict[str, Any]:
    """Kendall's tau and errors on folds left out, over splits."""
    found: dict[str, list[tuple[float, float]]] = {}
    within, kinds = [], []
    for split in range(SPLITS):
        order = np.random.default_rng(1000 + split).permutation(len(table))
        predicted: dict[str, Array] = {}
        for fold in range(FOLDS):
            out = order[fold::FOLDS]
            kept, left = table.take(np.sort(np.delete(order, np.s_[fold::FOLDS]))), table.take(out)
            model, _ = fit_table(kept)
            mean, std = model.predict(left.genes, left.features)
            z = model.encoding.encode(left.genes, left.features).z
            ridge = model.warp.back(model.members.predict("ridge", z))
            for kind, values in (
                ("chosen", mean),
                ("ridge", ridge),
                ("plain ridge on choices", one_hot_ridge(kept, left)),
            ):
                predicted.setdefault(kind, np.empty(len(table)))[out] = values
            within += (np.abs(mean - left.values) <= DEVIATIONS * std).tolist()
            kinds.append(model.kind)
        for kind, values in predicted.items():
            tau = float(kendalltau(values, table.values).statistic)
            found.setdefault(kind, []).append((tau, float(np.abs(values - table.values).mean())))
    taus = {kind: np.array(pairs)[:, 0] for kind, pairs in found.items()}
    return {
        "kendall_tau": {kind: with_interval(own) for kind, own in taus.items()},
        "chosen_less_ridge": with_interval(taus["chosen"] - taus["ridge"]),
        "chosen_less_plain_ridge": with_interval(taus["chosen"] - taus["plain ridge on choices"]),
        "mean_error": {k: round(float(np.array(p)[:, 1].mean()), 3) for k, p in found.items()},
        "guessing_error": round(float(np.abs(table.values - table.values.mean()).mean()), 3),
        "coverage_of_90": round(float(np.mean(within)), 4),
        "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
    }


def with_interval(values: Array) -> dict[str, Any]:
    """Mean over splits with its 95 % interval."""
    mean = float(values.mean())
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return {"mean": round(mean, 4), "95": [round(mean - half, 4), round(mean + half, 4)]}


def noise(evaluations: Evaluations, again: Evaluations) -> dict[str, Any]:
    """What of a ranking is luck: of pictures, by standard errors, and of statistics, by repeats."""
    first = dict(zip(evaluations.archs, evaluations.values, strict=True))
    pairs = np.array([(first[a], v) for a, v in zip(again.archs, again.values, strict=True)])
    ceiling = None
    if evaluations.stderr:
        ceiling = noise_ceiling(np.array(evaluations.values), evaluations.stderr)
    return {
        "stderr": evaluations.stderr,
        "tau_on_other_pictures": None if ceiling is None else round(ceiling, 4),
        "tau_with_other_statistics": round(float(kendalltau(*pairs.T).statistic), 4),
        "evaluated_again": len(pairs),
    }


def figures(folder: Path) -> dict[str, Any]:
    evaluations = read_evaluations(folder / "subnets.jsonl")
    table = table_of(evaluations, space_of_subnets(evaluations))
    training = read_json(folder / "supernet" / "run.json", dict[str, Any])
    return {
        "training": training["settings"] | {"out": None},
        "subnets": len(table),
        "pictures": evaluations.num_pictures,
        "weights_sha256": evaluations.weights_sha256,
        "values": [round(float(q), 2) for q in np.quantile(table.values, (0, 0.5, 1))],
        "noise": noise(evaluations, read_evaluations(folder / "again.jsonl")),
        **judge(table),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    work = parser.parse_args().work.resolve()
    spaces = {}
    for name in TRAINED:
        make(name, work / name)
        spaces[name] = figures(work / name)
        print(name, json.dumps(spaces[name]["kendall_tau"]), flush=True)
    fields = {"folds": FOLDS, "splits": SPLITS, "spaces": spaces}
    command = "python -m tests.benchmarks.evaluated_subnets --work DIR"
    write_record("evaluated_subnets", fields, command=command)


if __name__ == "__main__":
    main()
