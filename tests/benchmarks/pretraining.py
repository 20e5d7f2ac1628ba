"""What pre-training without labels gains: `python -m tests.benchmarks.pretraining`.

B0 with a segmentation head learns the embedded cells from few labelled pictures, from scratch and
from an encoder that was pre-trained (masked image modelling) on 20,000 pictures without labels;
each from three seeds, all by the commands that a user types. The record, with the mean IoU of
every run, goes to results/benchmarks/pretraining.json; `--work DIR` keeps runs, and takes those
that are done. About half an hour on one core.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from results.reading import read_json
from tests.benchmarks.record import ROOT, write_record

SEEDS = (0, 1, 2)
SIDE, LABELS = "96", (100, 400)
PRETRAIN = ("--task", "pretrain", "--steps", "1500", "--batch-size", "32")
FINE_TUNE = ("--task", "segmentation", "--num-classes", "8", "--steps", "400", "--batch-size", "16")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, help="keep runs here, and take those that are done")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        fields = {
            "network": f"b0, {SIDE} px",
            "flags": {"pretrain": PRETRAIN, "fine_tune": FINE_TUNE},
            **measure(work),
        }
    record = write_record("pretraining", fields)
    print(json.dumps(record, indent=2))


def measure(work: Path) -> dict[str, Any]:
    pretrained = trained(work / "pretrained", *PRETRAIN)
    rows = []
    for labels in LABELS:
        miou: dict[str, list[float]] = {"from scratch": [], "pre-trained": []}
        for seed in SEEDS:
            for name, init in (
                ("from scratch", ()),
                ("pre-trained", ("--init", str(work / "pretrained" / "model.safetensors"))),
            ):
                flags = (*FINE_TUNE, "--num-train", str(labels), "--seed", str(seed), *init)
                found = trained(work / f"{name.replace(' ', '-')}-{labels}-{seed}", *flags)
                miou[name].append(found["value"])
                print(labels, seed, name, found["value"], flush=True)
        gains = np.subtract(miou["pre-trained"], miou["from scratch"])
        rows.append(
            {
                "labels": labels,
                "miou": miou,
                "gain": float(gains.mean()),
                "gain_stderr": float(gains.std(ddof=1) / len(gains) ** 0.5),
            }
        )
    return {"pretraining": pretrained, "segmentation": rows}


def trained(folder: Path, *flags: str) -> dict[str, Any]:
    """What a training, or the rest of one, reaches; seconds only where it was not killed."""
    if not (folder / "evaluation.json").exists():
        started = time.monotonic()
        first = ["--arch", "b0", "--resolution", SIDE, *flags, "--out", str(folder)]
        arguments = ["--resume", str(folder)] if (folder / "run.json").exists() else first
        subprocess.run(
            [sys.executable, "-m", "supernet.train", *arguments, "--quiet"], cwd=ROOT, check=True
        )
        print(f"{folder.name}: {time.monotonic() - started:.0f} s", flush=True)
    (row,) = read_json(folder / "evaluation.json", dict[str, Any])["evaluations"]
    return {name: row[name] for name in ("metric", "value", "stderr", "n")}


if __name__ == "__main__":
    main()
