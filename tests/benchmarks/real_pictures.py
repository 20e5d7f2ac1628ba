"""Tasks on real pictures: `python -m tests.benchmarks.real_pictures --work DIR`.

Small networks learn from the pictures of `tests.benchmarks.composites` by the commands that a
user types, from scratch and from weights that learned from embedded pictures, and are evaluated
on photographs and objects that they never saw, beside what takes no learning. Runs are kept in
DIR, and those that are done are taken. The record goes to results/benchmarks/real_pictures.json.
About an hour on one core; `--tasks promptable` takes hours.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from predictors.evaluations import PRIMARY
from results.reading import read_json
from supernet.arch import PromptableHead, Stem, SuperResolutionHead
from supernet.official import named_arch
from supernet.tasks.annotated_pictures import AnnotatedPictures, box_of
from supernet.tasks.promptable import iou
from supernet.tasks.super_resolution import LargePictures, Likeness
from tests.benchmarks.composites import CLASSES, COUNTS, SIDE, make
from tests.benchmarks.record import ROOT, write_record

TASKS = {  # by name: folder of composites, network, flags
    "classification": ("single", "b0", ("--resolution", "96", "--steps", "1000")),
    "segmentation": (
        "scenes",
        "b0",
        ("--resolution", "96", "--batch-size", "32", "--steps", "800"),
    ),
    "super_resolution": ("photos", "sr_x2", ("--resolution", "64", "--steps", "200")),
    "promptable": ("objects", "sam_l0", ("--batch-size", "4", "--steps", "200", "--limit", "100")),
}
WIDTHS = {"sr_x2": (16, 24, 32, 48), "sam_l0": (16, 32, 64, 128)}  # as published they take hours
QUICK = ["classification", "segmentation", "super_resolution"]  # a promptable step takes seconds
SAME_LABELS = ("super_resolution", "promptable")  # what learned from embedded ones can be tried


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=QUICK, choices=list(TASKS))
    options = parser.parse_args()
    make(options.work)
    rows = {name: measure(options.work, name) for name in options.tasks}
    fields = {
        "pictures": COUNTS,
        "side": SIDE,
        "classes": list(CLASSES),
        "tasks": rows,
    }
    record = write_record("real_pictures", fields)
    print(json.dumps(record, indent=2))


def measure(work: Path, task: str) -> dict[str, Any]:
    """Figures on held-out real pictures, of what learned from real ones, embedded ones or both."""
    folder, name, flags = TASKS[task]
    first = ("--task", task, "--arch", network(work, name), *flags)
    data: tuple[str, ...] = ("--data", str(work / folder))
    if task == "segmentation":
        data += ("--num-classes", str(len(CLASSES) + 1))
    embedded = work / "runs" / f"{task}-embedded"
    trained(embedded, *first)
    weights = str(embedded / "model.safetensors")
    found = {
        "network": name if name not in WIDTHS else f"{name}, one block a stage of {WIDTHS[name]}",
        "flags": flags,
        "no learning": BASELINES[task](work / folder),
        "real": trained(work / "runs" / f"{task}-real", *first, *data),
        "embedded, then real": trained(
            work / "runs" / f"{task}-both", *first, *data, "--init", weights
        ),
    }
    if task in SAME_LABELS:
        arguments = ["--weights", weights, *data, "--limit", "100", "--json"]
        command = [sys.executable, "-m", "supernet.evaluate", *arguments]
        said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found["embedded"] = first_figure(json.loads(said.stdout))
    return found


def network(work: Path, name: str) -> str:
    """For --arch: the name, or a file with a network like it of one block a stage."""
    if name not in WIDTHS:
        return name
    arch = named_arch(name)
    assert isinstance(arch.head, SuperResolutionHead | PromptableHead)
    sized = zip(arch.stages, WIDTHS[name], strict=True)
    small = replace(
        arch,
        stem=Stem(WIDTHS[name][0], 1, arch.stem.stride),
        stages=tuple(replace(stage, width=width, depth=1) for stage, width in sized),
        head=replace(arch.head, width=WIDTHS[name][0] * 2, depth=1),
    )
    path = work / f"small_{name}.json"
    path.write_text(small.to_json())
    return str(path)


def trained(folder: Path, *flags: str) -> dict[str, Any]:
    """What a training, or the rest of one, reaches."""
    if not (folder / "evaluation.json").exists():
        started = time.monotonic()
        first = [*flags, "--out", str(folder)]
        arguments = ["--resume", str(folder)] if (folder / "run.json").exists() else first
        subprocess.run(
            [sys.executable, "-m", "supernet.train", *arguments, "--quiet"], cwd=ROOT, check=True
        )
        print(f"{folder.name}: {time.monotonic() - started:.0f} s", flush=True)
    found = figures(read_json(folder / "evaluation.json", dict[str, Any])["evaluations"][0])
    return found | {"commit": read_json(folder / "run.json", dict[str, Any])["commit"]}


def first_figure(answer: dict[str, Any]) -> dict[str, Any]:
    """As `figures`, of what `supernet.evaluate` prints of one network."""
    metric = PRIMARY[answer["task"]]
    value, stderr = answer["metrics"][metric], answer["metrics"][f"{metric}_stderr"]
    return {"metric": metric, "value": value, "stderr": stderr, "n": answer["n"]}


def figures(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("metric", "value", "stderr", "n")}


def chance(folder: Path) -> float:
    """Top-1 of the most frequent class, in percent."""
    counts = [len(list(path.iterdir())) for path in (folder / "val").iterdir()]
    return 100 * max(counts) / sum(counts)


def all_background(folder: Path) -> float:
    """Mean IoU, in percent, where every pixel is called background."""
    masks = [np.asarray(Image.open(path)) for path in (folder / "masks" / "val").iterdir()]
    return 100 * float(np.mean([mask == 0 for mask in masks])) / (len(CLASSES) + 1)


def bicubic(folder: Path) -> float:
    """PSNR of Pillow's enlargement, in dB."""
    likeness = Likeness(2)
    for small, large in _samples(LargePictures(folder, 2)):
        pixels = (small.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        size = (large.shape[2], large.shape[1])
        enlarged = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        likeness.update(torch.from_numpy(enlarged).permute(2, 0, 1)[None] / 255, large[None])
    return likeness.compute()["psnr_db"]


def boxes(folder: Path) -> float:
    """Mean IoU of the boxes themselves, in percent."""
    found = []
    for picture in _samples(AnnotatedPictures(folder)):
        for instance in picture.instances:
            mask = instance.decode()
            left, top, right, bottom = map(round, box_of(mask))
            box = np.zeros_like(mask)
            box[top:bottom, left:right] = True
            found.append(iou(box, mask))
    return 100 * float(np.mean(found))


def _samples(data: Any) -> Iterable[Any]:
    return (data[index] for index in range(len(data)))


BASELINES = {
    "classification": chance,
    "segmentation": all_background,
    "super_resolution": bicubic,
    "promptable": boxes,
}


if __name__ == "__main__":
    main()
