"""What int8 costs networks that learned: `python -m tests.benchmarks.int8 --work DIR`.

B0 and the knee of a search learn from embedded pictures at 64 px, for a few minutes; both are
exported in int8 to ONNX and TFLite by the command that a user types, and judged on 4,800 held-out
pictures, the same in float32. About 12 minutes of CPU, most of it training; runs in DIR that are
done are taken. The record goes to results/benchmarks/int8.json.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from results.reading import read_json
from supernet.tasks.embedded_shapes import CLASSES, draw_shape
from supernet.tasks.sources import DIFFICULTY
from tests.benchmarks.record import ROOT, write_record

SIDE, STEPS = 64, 800
PICTURES = {"val": 4800, "train": 600}  # held out; to find limits on
SEARCH = ("--device", "orin", "--space", "tiny", "--evaluations", "9000", "--trials", "20")
MOST_LOST = 1.0  # points of top-1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    draw(work / "pictures")
    if not (work / "search" / "front.json").exists():
        command("nas.search", *SEARCH, "--out", work / "search", "--quiet")
    networks = {"b0": "b0", "knee of a search": knee(work)}
    rows = [row for name, arch in networks.items() for row in measure(work, name, arch)]
    fields = {
        "side": SIDE,
        "steps": STEPS,
        "pictures": PICTURES,
        "search": " ".join(SEARCH),
        "rows": rows,
        "most_lost_allowed": MOST_LOST,
        "holds": all(row["accuracy"]["drop"] <= MOST_LOST for row in rows),
    }
    print(json.dumps(write_record("int8", fields), indent=2))


def draw(folder: Path) -> None:
    """Write embedded pictures as folders of classes: those held out, and some to train on."""
    for split, number in PICTURES.items():
        if len(list(folder.glob(f"{split}/*/*.png"))) == number:
            continue
        for index in range(number):
            seed = (0, index) if split == "val" else (1, 0, index)  # as in supernet.tasks.sources
            label = index % len(CLASSES)
            pixels = draw_shape(label, (SIDE, SIDE), np.random.default_rng(seed), DIFFICULTY)
            path = folder / split / CLASSES[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def knee(work: Path) -> str:
    """Return RUN#ID of the knee of the search, as an export finds it."""
    folder = work / "knee"
    if not (folder / "manifest.json").exists():
        flags = ("--pick", "knee", "--format", "safetensors", "--images", "1", "--quiet")
        command("nas.export", work / "search", *flags, "--out", folder)
    asked: str = read_json(folder / "manifest.json", dict[str, Any])["networks"][0]["asked"]
    return asked


def measure(work: Path, name: str, arch: str) -> list[dict[str, Any]]:
    """Train a network, export it, and return what its files lose."""
    run, out = (work / f"{name.split()[0]}-{end}" for end in ("run", "int8"))
    size = ("--resolution", SIDE)
    if not (run / "model.safetensors").exists():
        steps = ("--steps", STEPS, "--limit", 100, "--num-classes", len(CLASSES))
        command("supernet.train", "--arch", arch, *size, *steps, "--out", run, "--quiet")
    if not (out / "manifest.json").exists():
        files = ("--format", "onnx", "--format", "tflite", "--precision", "int8")
        data = ("--data", work / "pictures", "--limit", PICTURES["val"], "--images", 200)
        more = ("--max-drop", 100, "--quiet", "--out", out)  # what is lost is judged here
        started = time.monotonic()
        command("nas.export", run / "model.safetensors", *files, *data, *more)
        print(f"{out.name}: {time.monotonic() - started:.0f} s", flush=True)
    (network,) = read_json(out / "manifest.json", dict[str, Any])["networks"]
    return [
        {
            "network": name,
            "arch": network["arch"],
            "format": file["format"],
            "runtime": file["checked_with"],
            "bytes": file["bytes"],
            "same_class_as_pytorch": file["top1_agreement"],
            **{key: file["int8"][key] for key in ("accuracy", "integer_macs")},
            "calibration_images": file["int8"]["calibration_images"],
        }
        for file in network["files"]
    ]


def command(module: str, *flags: object) -> None:
    """Run a command as a user does. Raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", module, *map(str, flags)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
