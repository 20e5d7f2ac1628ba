"""Promptable segmentation: pictures with objects, or dead leaves, and the IoU from boxes.

B batch, S side of what the image encoder sees, H height, W width.
"""

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import find_objects
from torch import Tensor, nn
from torch.utils.data import Dataset

from results.errors import DataError, NotFiniteError, WeightsError
from supernet.arch import Arch, PromptableHead
from supernet.model import EfficientViT
from supernet.pictures import Normalisation
from supernet.sam.model import Sam
from supernet.sam.predictor import SAM, PromptablePredictor, prepare_image
from supernet.tasks.annotated_pictures import (
    AnnotatedPicture,
    AnnotatedPictures,
    Instance,
    Mask,
    Numbered,
)
from supernet.tasks.augment import photometric
from supernet.tasks.draw import Augment, Draw
from supernet.tasks.embedded_leaves import draw_leaves
from supernet.tasks.loop import cure_of_not_finite, read_batches
from supernet.tasks.options import TaskOptions
from supernet.tasks.prompts import NoObjectError, ask, decoded_loss
from supernet.tasks.sources import Embedded, Folder
from supernet.tasks.splits import separate, spread
from supernet.tasks.task import EvaluationSettings, Task
from supernet.weights.fitting import StoredWeights
from supernet.weights.networks import network_with

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}
LEAST_SHARE = 0.004  # of a picture: smaller leaves are not asked for
HELD_OUT_LEAVES = 8  # the largest of a held-out picture
SIDE = 256  # of held-out embedded pictures, pixels


class PromptableTask(Task):
    """Objects masked from boxes and points; a target is `prompts.Prompts`.

    With a teacher the target is the picture as the teacher sees it, and the loss the mean
    square of the difference between the two image embeddings: EfficientViT-SAM's first stage.
    """

    name, primary = "promptable", "miou"
    source: "_Leaves | _AnnotatedFiles"

    def __init__(self, options: TaskOptions) -> None:
        """Raises DataError where pictures are missing, WeightsError for what is no teacher."""
        self.teacher = None if options.teacher is None else image_encoder_in(options.teacher)
        source = (
            _Leaves(options) if options.data is None else _AnnotatedFiles(options.data, options)
        )
        self.normalisation = options.normalisation or SAM
        super().__init__(source, options.variations)

    def sample(self, draw: Draw, augment: Augment) -> tuple[Tensor, Any]:
        """Return a picture, (3, S, S), and prompts, or itself at the teacher's size.

        Where it has no object, the next one that has. Raises DataError where none has.
        """
        for further in range(self.num_train):
            with suppress(NoObjectError):
                return self._sample(draw, (draw.index + further) % self.num_train, augment)
        raise DataError(f"{self.source.where} has no picture with an object to ask for")

    def _sample(self, draw: Draw, index: int, augment: Augment) -> tuple[Tensor, Any]:
        picture, rng = self.source.read(index, draw.size), draw.rng()
        mirrored = augment.flip and bool(rng.random() < 0.5)
        pixels = picture.pixels[:, ::-1] if mirrored else picture.pixels
        pixels = photometric(np.ascontiguousarray(pixels), rng, augment.photometric)
        x = prepare_image(pixels, draw.size[0], self.normalisation)
        if self.teacher is not None:
            side, seen = self.teacher.arch.resolution[0], self.teacher.preprocessing
            return x, prepare_image(pixels, side, Normalisation(seen.mean, seen.std))
        return x, ask(picture, rng, mirrored=mirrored)

    def loss(self, output: Tensor, target: Any, decoder: nn.Module | None) -> Tensor:
        """Return SAM's loss of all prompts, or the distance from the teacher's embedding."""
        if self.teacher is not None:
            self.teacher.to(output.device)
            with torch.no_grad():
                taught = self.teacher(target)
            return F.mse_loss(output.float(), taught.float())
        assert decoder is not None
        return decoded_loss(output, target, decoder)

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        """Return the mean square of the difference between two embeddings."""
        return F.mse_loss(output.float(), teacher.detach().float())

    def held_out(self, arch: Arch) -> tuple[Dataset[AnnotatedPicture], "BoxIoU"]:
        """Return pictures with their objects, and the IoU from their boxes."""
        return self.source.held_out(arch), BoxIoU()

    def evaluate(
        self, model: nn.Module, arch: Arch, settings: EvaluationSettings
    ) -> dict[str, float]:
        """Segment every object from its box; `model` is a `Sam`, see `Task.evaluate`."""
        assert isinstance(model, Sam)
        data, metric = self.held_out(arch)
        data, predictor = spread(data, settings.limit), PromptablePredictor(model)
        batches = read_batches(data, batch_size=settings.batch_size, workers=settings.workers)
        for batch in batches:
            for picture in batch:
                metric.update(predictor, picture)
        return {**metric.compute(), "n": float(len(data))}  # type: ignore[arg-type]


class _Leaves(Embedded[AnnotatedPicture]):
    where = "the embedded set of leaves"

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options, ("leaves",))

    def draw(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> AnnotatedPicture:
        return leaves(f"leaves/{index}", size, rng, self.difficulty)

    def held_out(self, arch: Arch) -> Dataset[AnnotatedPicture]:
        return _HeldOutLeaves(self)


class _HeldOutLeaves(Dataset[AnnotatedPicture]):
    """Pictures of one size, each with its largest leaves alone."""

    def __init__(self, source: _Leaves) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.num_held_out

    def __getitem__(self, index: int) -> AnnotatedPicture:
        picture = self.source.read_held_out(index, (SIDE, SIDE))
        return replace(
            picture,
            path=Path(f"held out/{index}"),
            instances=picture.instances[:HELD_OUT_LEAVES],
        )


class _AnnotatedFiles(Folder[tuple[Path, Any], AnnotatedPicture]):
    """Pictures with annotations; each tenth is held out where there are no splits."""

    def __init__(self, folder: Path, options: TaskOptions) -> None:
        """Raises DataError where there are no pictures with objects."""
        self.needs_objects = options.teacher is None  # a teacher teaches embeddings
        self._train, self._held_out = (
            AnnotatedPictures(folder, split=split) for split in ("train", "val")
        )
        self.notes = tuple(dict.fromkeys(self._train.notes + self._held_out.notes))
        train, held_out = separate(
            self._train.samples, self._held_out.samples, key=lambda pair: pair[0]
        )
        if self._train.layout == "coco" and self.needs_objects:
            train = [pair for pair in train if pair[1].annotations]  # many pictures show nothing
        if not train:
            raise DataError(f"{folder} has no annotated pictures to train on")
        super().__init__(folder, train, held_out, options.num_train)
        self._train.samples, self._held_out.samples = self.files, self.held_out_files
        self.where = str(folder)
        if self._train.layout != "folder":
            self.dataset = self._train.layout

    def load(self, file: tuple[Path, Any]) -> AnnotatedPicture:
        return self._train.load(file)

    def held_out(self, arch: Arch) -> Dataset[AnnotatedPicture]:
        return self._held_out

    def check_files(self) -> tuple[str, ...]:
        notes = super().check_files()
        return notes + self._train.check_objects() if self.needs_objects else notes


def image_encoder_in(weights: StoredWeights) -> EfficientViT:
    """Return the image encoder of one of our files of a promptable network, frozen.

    Raises WeightsError if the file is of no such network.
    """
    arch = weights.header.arch
    if arch is None or not isinstance(arch.head, PromptableHead):
        has = "does not tell its architecture" if arch is None else f"is for {arch.task}"
        raise WeightsError(
            f"{weights.path} {has}; a teacher is a promptable network's .safetensors"
        )
    model = network_with(weights, arch)
    assert isinstance(model, Sam)  # as its head says
    assert isinstance(model.image_encoder, EfficientViT)
    return model.image_encoder.eval().requires_grad_(False)


def leaves(
    name: str, size: tuple[int, int], rng: np.random.Generator, difficulty: float
) -> AnnotatedPicture:
    """Return dead leaves and the visible part of each that is large enough, largest first."""
    pixels, drawn = draw_leaves(size, rng, difficulty)
    numbers = drawn.astype(np.int64)
    counts = np.bincount(numbers.ravel())
    counts[0] = 0
    places = find_objects(drawn)
    instances = []
    for number in np.argsort(-counts, kind="stable").tolist():
        if counts[number] <= LEAST_SHARE * numbers.size:
            break
        rows, columns = places[number - 1]
        box = (columns.start, rows.start, columns.stop, rows.stop)
        area = float(counts[number])
        instances.append(Instance(box, area, Numbered(numbers, number)))
    return AnnotatedPicture(Path(name), pixels, tuple(instances))


class PredictedMasks(Protocol):
    """What `supernet.sam.predictor` predicts for one prompt."""

    @property
    def masks(self) -> NDArray[Any]:
        """Return masks, (3, H, W), of booleans."""
        ...

    @property
    def scores(self) -> NDArray[np.float32]:
        """Return how good each mask is thought to be, (3,)."""
        ...


class Predictor(Protocol):
    """`supernet.sam.predictor.PromptablePredictor`, or what stands in for it."""

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Take a picture, (H, W, 3), which prompts are of from now on."""
        ...

    def predict(self, *, box: ArrayLike, multimask: bool) -> PredictedMasks:
        """Return masks of the object in a box of (x, y, x, y) pixels."""
        ...


class BoxIoU:
    """Mean IoU of the masks that ground-truth boxes give, in percent, by COCO's sizes.

    Standard errors are those of a ratio over pictures, as objects of one picture are alike.
    """

    def __init__(self) -> None:
        self.pictures: list[list[tuple[float, float]]] = []  # (area, IoU) of every object
        self.damaged = self.assumed = 0  # objects
        self.reason = ""  # why the first damaged one is

    def update(self, predictor: Predictor, picture: AnnotatedPicture) -> None:
        """Segment every object from its box; of three masks the one of highest score counts.

        Objects without a pixel are left out (the official evaluation: area below 1).
        Damaged ones are counted. Raises NotFiniteError where scores are not finite.
        """
        self.damaged += len(picture.damaged)
        self.reason = self.reason or "".join(picture.damaged[:1])
        self.assumed += len(picture.instances) if picture.is_assumed else 0
        predictor.set_image(picture.pixels)
        scores = []
        for instance in picture.instances:
            mask = instance.decode()
            if mask.any():
                prediction = predictor.predict(box=np.array(instance.box), multimask=True)
                if not np.isfinite(prediction.scores).all():
                    raise NotFiniteError(
                        f"{picture.path}: scores are not finite; "
                        + cure_of_not_finite(getattr(predictor, "model", None))
                    )
                best = prediction.masks[int(prediction.scores.argmax())]
                scores.append((instance.area, iou(best, mask)))
        self.pictures.append(scores)

    @property
    def objects(self) -> int:
        """Return the number of objects so far."""
        return sum(map(len, self.pictures))

    def compute(self) -> dict[str, float]:
        """Return miou, objects, and of each size with objects miou_SIZE and objects_SIZE.

        SIZE is small, medium or large; of two pictures or more there is `_stderr`, too.
        Where there are any: objects_damaged, which are left out, and objects_assumed_upright,
        of pictures that EXIF turns without telling which side is which.

        Raises DataError if there is no object at all.
        """
        if not self.objects:
            why = f"; {self.damaged} are damaged, the first: {self.reason}" if self.damaged else ""
            raise DataError(f"none of {len(self.pictures)} pictures has an object{why}")
        figures: dict[str, float] = {}
        for name, (least, most) in {"": (-math.inf, math.inf), **SIZES}.items():
            chosen = [[s for area, s in p if least <= area < most] for p in self.pictures]
            chosen = [scores for scores in chosen if scores]
            if chosen:
                key = f"miou_{name}" if name else "miou"
                figures |= _mean_over_pictures(key, chosen)
                figures[f"objects_{name}" if name else "objects"] = sum(map(len, chosen))
        if self.damaged:
            figures["objects_damaged"] = self.damaged
        if self.assumed:
            figures["objects_assumed_upright"] = self.assumed
        return figures


def iou(a: Mask, b: Mask) -> float:
    """Return the intersection over union of two masks, not both empty, of one shape."""
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))


def _mean_over_pictures(name: str, scores: list[list[float]]) -> dict[str, float]:
    """Return the mean of all scores, percent; its standard error treats a picture's as one cluster.

    Source: Cochran, Sampling Techniques, 1977, sec. 2.11 (a ratio of two sums).
    """
    sums, counts = np.array([sum(s) for s in scores]), np.array([len(s) for s in scores])
    mean = sums.sum() / counts.sum()
    figures = {name: 100 * float(mean)}
    if len(scores) > 1:
        residual = ((sums - mean * counts) ** 2).sum() * len(scores) / (len(scores) - 1)
        figures[f"{name}_stderr"] = 100 * float(math.sqrt(residual) / counts.sum())
    return figures
