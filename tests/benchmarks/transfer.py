"""How well what shape is worth transfers from table to table, and to the fronts.

    python -m tests.benchmarks.transfer --tables DIR --base COMMIT

DIR holds the public tables, see `predictors.public_tables`. Each table is predicted by a law of
its own size with the stages' weights of the other tables, on draws of its networks; with several
shares of size that are given to shape. Then the prior on EfficientViT's own figures, each
architecture left out, and how far the official figures move. Then the fronts that `nas.search`
finds with the prior of COMMIT, before shapes, and with this one: how many networks are marked as
extrapolated, and how many standard deviations they gain over the official networks.

The record goes to results/benchmarks/transfer.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.stats import kendalltau

from predictors import worth
from predictors.accuracy import difference_std, load_prior
from predictors.public_tables import PublicTable, read_public_tables
from predictors.size import size_of
from predictors.stage_effects import (
    CLASSIFICATION_TABLES,
    SizeLaw,
    combine,
    fit_effects,
    shifted,
    sizes_of,
)
from predictors.worth import Effects
from tests.benchmarks.record import ROOT, write_record
from tests.same_numbers import checked_out

DRAWS = 20  # of half of a table's networks
SHARES = (0.0, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
DEVICES = ("snapdragon8gen1", "orin", "a100", "jetson-nano", "example-cpu")
SEEDS = (0, 1, 2)


def judged(table: PublicTable, effects: Effects, rng: np.random.Generator) -> dict[str, Any]:
    """Return tau and standard deviation by share, over draws of half of the networks."""
    law = SizeLaw.of(sizes_of(table), table.value)
    half = len(table.value) // 2
    drawn = [rng.choice(len(table.value), half, replace=False) for _ in range(DRAWS)]
    by_share = {}
    for share in SHARES:
        with patch.object(worth, "SHARE", share):
            predicted = shifted(law, table, effects)
        taus = [kendalltau(predicted[rows], table.value[rows]).statistic for rows in drawn]
        stds = [float(np.std(table.value[rows] - predicted[rows])) for rows in drawn]
        by_share[str(share)] = {"tau": spread(taus), "std": spread(stds)}
    return by_share


def spread(values: Sequence[float]) -> dict[str, float]:
    quantiles = {"low": 0.025, "median": 0.5, "high": 0.975}
    return {name: round(float(np.quantile(values, at)), 4) for name, at in quantiles.items()}


def own_figures() -> dict[str, Any]:
    """Return the prior's errors on EfficientViT's figures, and how far shape moves them."""
    found = {}
    for dataset in ("imagenet", "cityscapes", "ade20k", "sa1b"):
        prior = load_prior(dataset)
        with patch.object(worth, "SHARE", 0.0):
            size_of.cache_clear()
            load_prior.cache_clear()
            plain = load_prior(dataset)
        size_of.cache_clear()
        load_prior.cache_clear()
        moves = [
            abs(a.fitted - b.fitted) for a, b in zip(prior.residuals, plain.residuals, strict=True)
        ]
        found[dataset] = {
            "leave_architecture_out_mae": round(prior.arch_mae, 4),
            "without_shape": round(plain.arch_mae, 4),
            "largest_move_of_a_figure": round(max(moves), 4),
        }
    return found


def fronts(code: Path, folder: Path) -> dict[str, Any]:
    """Return what the marks and gains of default searches are, over seeds."""
    found: dict[str, Any] = {}
    for device in DEVICES:
        shares, gains = [], []
        for seed in SEEDS:
            out = folder / f"{device}-{seed}"
            subprocess.run(
                [sys.executable, "-m", "nas.search", "--device", device, "--seed", str(seed),
                 "--quiet", "--out", str(out)],
                cwd=code, env=os.environ | {"PYTHONPATH": str(code)}, check=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            front = json.loads((out / "front.json").read_text())
            candidates = front["candidates"]
            shares.append(statistics.mean(c["accuracy_extrapolated"] for c in candidates))
            gains += list(gains_of(candidates, front["baselines"].values()))
        found[device] = {
            "share_extrapolated": [round(share, 3) for share in shares],
            "gain_points": round(statistics.median(g[0] for g in gains), 2),
            "gain_in_standard_deviations": round(statistics.median(g[1] for g in gains), 2),
        }
        print(device, found[device], flush=True)
    return found


def gains_of(candidates, officials):
    """Yield points and standard deviations gained over each official network at its latency."""
    for official in officials:
        within = [c for c in candidates if c["latency_ms"] <= official["latency_ms"]]
        if within:
            best = max(within, key=lambda c: c["accuracy"])
            gain = best["accuracy"] - official["accuracy"]
            yield gain, gain / difference_std(best["accuracy_std"], official["accuracy_std"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", type=Path, required=True, metavar="DIR")
    parser.add_argument("--base", required=True, metavar="COMMIT")
    flags = parser.parse_args()
    tables = read_public_tables(flags.tables)
    effects = {name: fit_effects(table) for name, table in tables.items()}
    rng = np.random.default_rng(0)
    transfer = {
        name: judged(
            table,
            combine([effects[other] for other in CLASSIFICATION_TABLES if other != name]),
            rng,
        )
        for name, table in tables.items()
        if not table.groups.max()
    }
    with tempfile.TemporaryDirectory(prefix="transfer-") as name:
        folder = Path(name)
        (folder / "before").mkdir()
        (folder / "after").mkdir()
        before = fronts(checked_out(flags.base, folder / "base"), folder / "before")
        after = fronts(ROOT, folder / "after")
    write_record(
        "transfer",
        {
            "settings": f"{DRAWS} draws of half of a table's networks; searches of seeds {SEEDS}",
            "from_other_tables_by_share": transfer,
            "published_figures": own_figures(),
            "fronts_before": {"commit": flags.base, **before},
            "fronts_after": after,
        },
        command=f"python -m tests.benchmarks.transfer --tables DIR --base {flags.base}",
    )


if __name__ == "__main__":
    main()
