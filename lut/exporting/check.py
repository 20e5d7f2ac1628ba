"""A file held against the PyTorch network, on pictures."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lut.builders.network import INPUT, OUTPUT
from lut.exporting.formats import TOLERANCE
from lut.exporting.job import Job, Runner
from lut.exporting.networks import Network
from lut.exporting.noise import Pictures, noise, normalised, pixels_of
from lut.exporting.options import ExportOptions

ROUNDINGS = 3.0  # of PyTorch itself, that a file may be off: both err


@dataclass(frozen=True)
class Difference:
    """How far a file is from PyTorch; None where an output is infinite or no number.

    `relative`: the largest absolute difference over the largest absolute value; of indices of
    classes, how far the logit of the class that was chosen is below the largest, over the same.
    """

    relative: float | None
    agreement: float | None  # share of pictures, or of pixels, of the same class; None: no classes
    pictures: int

    def holds(self, precision: str, rounding: float) -> bool:
        """Tell whether a file counts: finite, and of fp32 equal to PyTorch within rounding.

        Args:
            rounding: of PyTorch itself, see `rounding_of`.
        """
        most = max(TOLERANCE, ROUNDINGS * rounding)
        return self.relative is not None and (precision != "fp32" or self.relative <= most)


@dataclass(frozen=True)
class Example:
    """Pictures and the logits that PyTorch gives for them."""

    pictures: Pictures
    logits: npt.NDArray[np.float32]


def examples_of(job: Job, options: ExportOptions) -> list[Example]:
    """Return what files of the job's network are held against, in whole batches.

    Raises DataError for pictures that cannot be read.
    """
    import torch

    pipeline, examples = job.pipeline(), []
    with torch.no_grad():
        for pictures in _shown(job, options):
            logits = pipeline.logits(torch.from_numpy(pictures)).numpy()
            examples.append(Example(pictures, logits))
    return examples


def rounding_of(job: Job, examples: list[Example]) -> float:
    """Return how far logits of PyTorch in float32 are from those in float64, as differences are."""
    import torch

    model, seen = copy.deepcopy(job.network.model).double(), job.network.model.preprocessing
    far = largest = 0.0
    for example in examples:
        pictures = example.pictures
        given = normalised(pictures, seen) if job.input_type == "uint8" else pictures
        with torch.no_grad():
            exact = model(torch.from_numpy(given).double()).numpy()
        far = max(far, float(np.abs(example.logits - exact).max()))
        largest = max(largest, float(np.abs(exact).max()))
    return far / largest if largest else far


def _shown(job: Job, options: ExportOptions) -> Iterator[Pictures]:
    """Yield batches, of a file that takes any one more of another batch or size."""
    for pictures in pictures_of(job.network, options, options.images):
        yield pictures
    if job.dynamic == "batch":
        yield np.concatenate([pictures, pictures[::-1], pictures[:1, :, ::-1]])
    elif job.dynamic == "size":
        # the picture and its mirror images, taller and wider by about a half
        arch = job.network.arch
        step = arch.stride
        height, width = (side + max(side // 2 // step, 1) * step for side in arch.resolution)
        wide = np.concatenate([pictures, pictures[..., ::-1]], 3)[..., :width]
        yield np.ascontiguousarray(np.concatenate([wide, wide[:, :, ::-1]], 2)[:, :, :height])


def difference(run: Runner, job: Job, examples: list[Example]) -> Difference:
    """Run a file on pictures and compare what it gives with PyTorch."""
    import torch

    pipeline, number = job.pipeline(), sum(len(example.pictures) for example in examples)
    far = largest = 0.0
    same = places = 0
    for example in examples:
        logits = pipeline.enlarged(torch.from_numpy(example.logits)).numpy()
        expected = pipeline.finish(torch.from_numpy(example.logits)).numpy()
        found = run({INPUT: example.pictures})[OUTPUT]
        if found.shape != expected.shape or not np.isfinite(found).all():
            return Difference(None, None, number)
        if job.head == "argmax":
            chosen = np.take_along_axis(logits, found[:, None].astype(np.int64), 1)
            far = max(far, float((logits.max(1, keepdims=True) - chosen).max()))
            largest = max(largest, float(np.abs(logits).max()))
            agree = found == expected
        else:
            far = max(far, float(np.abs(found - expected).max()))
            largest = max(largest, float(np.abs(expected).max()))
            agree = found.argmax(1) == expected.argmax(1)
        same, places = same + int(agree.sum()), places + agree.size
    relative = far / largest if largest else far
    share = same / places if job.has_classes else None
    return Difference(relative, share, number)


def pictures_of(network: Network, options: ExportOptions, number: int) -> Iterator[Pictures]:
    """Yield batches as the files take them: of the network's task to train on, else seeded ones.

    There are `number` pictures, or a few more in whole batches.
    """
    seen = network.model.preprocessing
    batches = -(-number // options.batch)
    is_uint8 = options.input_type == "uint8"
    if network.task is None:
        rng = np.random.default_rng(options.seed)
        for _ in range(batches):
            pixels = noise(rng, options.batch, *network.arch.resolution)
            yield pixels if is_uint8 else normalised(pixels, seen)
        return
    for tensors in network.task.recalibration_batches(
        network.arch, batches * options.batch, options.batch, options.seed, options.workers
    ):
        pictures: Pictures = tensors.float().numpy()
        yield pixels_of(pictures, seen) if is_uint8 else pictures


def told(found: Difference) -> dict[str, Any]:
    """Return a difference for the manifest."""
    return {
        "relative_difference": found.relative,
        "top1_agreement": found.agreement,
        "pictures": found.pictures,
    }
