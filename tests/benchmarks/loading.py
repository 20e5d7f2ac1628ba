"""Whether reading pictures keeps up with training: `python -m tests.benchmarks.loading`.

Milliseconds to make one training picture in one process, for every embedded set and for folders
of photographs' size, and milliseconds that one training step of the fastest networks takes for
each picture, all in turns; the mean of the lowest fifth counts. A loader of as many processes as
cores is a bottleneck where `loading / cores` exceeds the step. With `--accelerator cuda` the
steps run there, in bfloat16. The record goes to results/benchmarks/loading.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from supernet.arch import Arch, ReconstructionHead, SegmentationHead
from supernet.model import build
from supernet.official import named_arch
from supernet.sharing.extremes import smallest_of
from supernet.spaces import get_space
from supernet.tasks.choose import training_task
from supernet.tasks.draw import Draw
from supernet.tasks.options import TaskOptions
from supernet.tasks.task import Task
from tests.benchmarks.record import write_record

ROOT = Path(__file__).parents[2]
ROUNDS, WARM_UP, PICTURES, BATCH = 24, 2, 8, 64


@dataclass
class Case:
    """A step of it makes or learns `pictures` pictures."""

    step: Callable[[], None]
    pictures: int
    seconds: list[float] = field(default_factory=list)

    def turn(self) -> None:
        started = time.perf_counter()
        self.step()
        self.seconds.append((time.perf_counter() - started) / self.pictures)

    @property
    def ms(self) -> float:
        kept = self.seconds[WARM_UP:]
        return statistics.fmean(sorted(kept)[: max(1, len(kept) // 5)]) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    device = torch.device(arguments.accelerator)
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        sets = data_sets(Path(folder))
        reads = {name: reading(*chosen) for name, chosen in sets.items()}
        steps = {name: learning(*chosen, device) for name, chosen in sets.items() if chosen[2]}
        for _ in range(arguments.rounds + WARM_UP):
            for case in (*reads.values(), *steps.values()):
                case.turn()
        parallel = {name: pictures_per_second(*chosen[:2], cores) for name, chosen in sets.items()}
    rows = {
        name: {
            "loading_ms": case.ms,
            "step_ms": steps[name].ms if name in steps else None,
            "loading_over_step": case.ms / cores / steps[name].ms if name in steps else None,
            "pictures_per_second_all_cores": parallel[name],
        }
        for name, case in reads.items()
    }
    fields = {
        "accelerator": torch.cuda.get_device_name() if device.type == "cuda" else "cpu, 1 thread",
        "batch": BATCH,
        "rows": rows,
    }
    suffix = "" if device.type == "cpu" else "-cuda"
    record = write_record(f"loading{suffix}", fields, command="python -m tests.benchmarks.loading")
    print(f"{'':34}{'loading ms':>12}{'step ms':>10}{'/ cores':>9}{'pictures/s':>12}")
    for name, row in rows.items():
        step = f"{row['step_ms']:10.2f}{row['loading_over_step']:9.2f}" if row["step_ms"] else ""
        shown = f"{row['loading_ms']:12.2f}{step or ' ' * 19}"
        print(f"{name:34}{shown}{row['pictures_per_second_all_cores']:12.0f}")
    print(json.dumps(record))


def data_sets(folder: Path) -> dict[str, tuple[Task, tuple[int, int], Arch | None]]:
    """Each with a size, and the fastest network that trains on it: the smallest of space tiny."""
    (smallest,) = smallest_of(get_space("tiny", num_classes=12))
    dense = replace(smallest, head=SegmentationHead(32, 1, 4, "mbconv", 4, 8))
    pixels = replace(smallest, head=ReconstructionHead())
    found: dict[str, tuple[Task, tuple[int, int], Arch | None]] = {}
    for side in (64, 96):
        size = (side, side)
        networks = {"classification": smallest, "segmentation": dense, "pretrain": pixels}
        for name, arch in networks.items():
            found[f"embedded {name} {side}"] = (training_task(TaskOptions(name)), size, arch)
        found[f"embedded super_resolution {side}"] = (
            training_task(TaskOptions("super_resolution")),
            size,
            None,
        )
    found["embedded promptable 512"] = (training_task(TaskOptions("promptable")), (512, 512), None)
    photographs(folder / "classes", 375, 500)
    task = training_task(TaskOptions("classification", data=folder / "classes"))
    b0 = named_arch("b0", num_classes=2)
    found["JPEG 375x500, official, 224"] = (task, (224, 224), b0)
    photographs(folder / "large", 1356, 2040)
    large = training_task(TaskOptions("super_resolution", data=folder / "large"))
    found["JPEG 1356x2040, parts of 192"] = (large, (96, 96), None)
    return found


def photographs(folder: Path, height: int, width: int) -> None:
    """Class folders of JPEGs that compress about as photographs do."""
    rng = np.random.default_rng(0)
    for index in range(20):
        small = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        place = folder / f"class{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{index}.jpg", quality=90)


def reading(task: Task, size: tuple[int, int], arch: Arch | None) -> Case:
    data, count = task.train_data(), 0

    def step() -> None:
        nonlocal count
        for _ in range(PICTURES):
            data[Draw(count % task.num_train, count // task.num_train, size, 0)]
            count += 1

    return Case(step, PICTURES)


def learning(task: Task, size: tuple[int, int], arch: Arch | None, device: torch.device) -> Case:
    assert arch is not None
    data = task.train_data()
    x, target = task.collate([data[Draw(i % task.num_train, 0, size, 0)] for i in range(BATCH)])
    x, target = x.to(device), target.to(device)
    model = build(arch).train().to(device)
    optimiser = torch.optim.AdamW(model.parameters())

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            output = model(x)
        task.loss(output, target, None).backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return Case(step, BATCH)


def pictures_per_second(task: Task, size: tuple[int, int], workers: int) -> float:
    """Of a loader with a process a core, after its first batches."""
    per_batch = 16 if max(size) < 300 else 4
    batches: list[list[Any]] = [
        [Draw((b * per_batch + i) % task.num_train, b, size, 0) for i in range(per_batch)]
        for b in range(12 * workers)
    ]
    loader = DataLoader(
        task.train_data(),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=task.collate,
    )
    ready = iter(loader)
    for _ in range(2 * workers):
        next(ready)
    started = time.perf_counter()
    count = sum(len(x) for x, _ in ready)
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
