"""int8 files: limits of their activations from pictures, what they lose, and where."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from lut.builders.integers import Limits, Quantisation, part_of
from lut.exporting.check import Example, difference, pictures_of
from lut.exporting.job import Job, Loaded
from lut.exporting.options import ExportOptions
from supernet.blocks import blocks_of

if TYPE_CHECKING:
    from lut.exporting.accuracy import Accuracy

# Of the lowest and highest numbers of pictures this share is beyond the limits. B0 at 64 px had
# 95.30 % of 2,000 embedded pictures right, ONNX and TFLite then had 95.10 and 95.10 %, and gave
# 99.1 and 99.0 % the same class; within the lowest and highest of all 95.25 and 95.10 %, and 98.6 %
# the same class; with a tenth beyond 94.90 and 94.95 %, with means over pictures 93.40 and 93.00 %.
BEYOND = 0.01
POINTS, DECIBELS = 1.0, 0.5  # that may be lost
MOST_NAMED = 3


@dataclass(frozen=True)
class Costly:
    """A block, and how far from PyTorch a file is that has it alone in integers."""

    block: str
    relative_difference: float | None  # None: not finite


def calibrated(job: Job, module: ModuleType, options: ExportOptions) -> Job:
    """Return a job of int8 with limits of its activations, found on training pictures.

    `module` writes and runs its format. Raises DataError for pictures that cannot be read.
    """
    observing = replace(job, batch=1, quantisation=Quantisation(observes=True))
    observe = module.observer(observing)
    seen: dict[str, list[float]] = {}
    number = options.calibration_images
    for pictures in pictures_of(job.network, replace(options, batch=1), number):
        for name, value in observe(pictures).items():
            seen.setdefault(name, []).append(float(value))
    return replace(job, quantisation=Quantisation(_limits(seen)))


def _limits(seen: dict[str, list[float]]) -> dict[str, Limits]:
    """Return limits by place, of PLACE/least and PLACE/largest of every picture.

    Tensors that share a place have names of their own there, after a colon.
    """
    limits: dict[str, Limits] = {}
    for name, numbers in seen.items():
        place = name.rpartition("/")[0].partition(":")[0]
        low, high = limits.get(place, (math.inf, -math.inf))
        if name.endswith("/least"):
            low = min(low, float(np.quantile(numbers, BEYOND)))
        else:
            high = max(high, float(np.quantile(numbers, 1 - BEYOND)))
        limits[place] = (low, high)
    return limits


def loss_of(loaded: Loaded, job: Job, options: ExportOptions) -> "Accuracy | None":
    """Return what a file loses on held-out pictures; None of random weights."""
    from lut.exporting.accuracy import accuracy_of

    return accuracy_of(loaded.run, job, options) if job.network.is_trained else None


def allowed(options: ExportOptions, loss: "Accuracy") -> float:
    """Return how much may be lost, in the metric's unit."""
    if options.max_drop is not None:
        return options.max_drop
    return DECIBELS if loss.metric.endswith("_db") else POINTS


def costly_blocks(
    job: Job, module: ModuleType, examples: Sequence[Example], stem: Path
) -> tuple[Costly, ...]:
    """Return the blocks that cost most, dearest first: each is in integers alone once.

    Args:
        stem: of files that are written for it and removed.
    """
    blocks = [block for block in blocks_of(job.network.arch) if part_of(block) != "nothing"]
    names = {block.name for block in blocks}
    found = []
    for name in sorted(names):
        alone = replace(job.quantisation, floats=frozenset(names - {name}))
        own = replace(job, quantisation=alone)
        paths = module.write(own, stem)
        try:
            run = module.load(paths[0], own).run
            found.append(Costly(name, difference(run, own, list(examples)).relative))
        finally:
            for path in paths:
                path.unlink()
    found.sort(key=lambda cost: -(math.inf if (d := cost.relative_difference) is None else d))
    return tuple(found[:MOST_NAMED])


def told_int8(
    job: Job, options: ExportOptions, loss: "Accuracy | None", costly: Sequence[Costly]
) -> dict[str, Any]:
    """Return what the manifest says of an int8 file beside what it says of all."""
    accuracy = None
    if loss is not None:
        accuracy = {
            "metric": loss.metric,
            "fp32": loss.before,
            "int8": loss.after,
            "drop": loss.drop,
            "drop_stderr": loss.drop_stderr,
            "max_drop": allowed(options, loss),
            "pictures": loss.pictures,
        }
    return {
        "calibration_images": options.calibration_images,
        "integer_macs": job.integer_share,
        "mostly_float": job.is_mostly_float,
        "accuracy": accuracy,
        "costly_blocks": [vars(cost) for cost in costly],
    }
