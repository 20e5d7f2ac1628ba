"""Promptable segmentation to train on: SA-1B, COCO, folders of numbered masks, or dead leaves.

B batch, P prompts of a picture, half of them boxes and half points; S side of what the image
encoder sees, H height, W width.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects
from torch import Tensor, nn
from torch.utils.data import Dataset

from results.errors import DataError, WeightsError
from supernet.arch import Arch, PromptableHead
from supernet.sam.model import FOREGROUND, FRAME, PADDING, MaskDecoder, PromptEncoder, Sam
from supernet.sam.predictor import LOW_RESOLUTION, PromptablePredictor, prepare_image, resized
from supernet.tasks.augment import photometric
from supernet.tasks.base import (
    NUM_TRAIN,
    NUM_VAL,
    TaskBase,
    check_index,
    embedded_set,
    evenly,
    held_out_rng,
    name_of,
    separate,
    spread,
    training_rng,
)
from supernet.tasks.embedded_leaves import draw_leaves
from supernet.tasks.loop import Metric, read_batches
from supernet.tasks.losses import prompt_loss
from supernet.tasks.promptable import (
    AnnotatedPicture,
    AnnotatedPictures,
    BoxIoU,
    Instance,
    Mask,
    Numbered,
    box_of,
)
from supernet.tasks.task import Augment, Draw
from supernet.weights.files import arch_in, load_network

PROMPTS = 8  # a picture; official: 64
POINTS = 10  # at most, of a prompt; official
LEAST_SHARE = 0.004  # of a picture: smaller leaves are not asked for
HELD_OUT_LEAVES = 8  # the largest of a held-out picture
SIDE = 256  # of held-out embedded pictures, pixels


class NoObjectError(DataError):
    """A picture has nothing to ask for."""


class Prompts(NamedTuple):
    """What to find in a picture, coordinates in SAM's frame of 1024 pixels; a batch adds B."""

    boxes: Tensor  # (P / 2, 4)
    points: Tensor  # (P / 2, POINTS, 2)
    labels: Tensor  # (P / 2, POINTS), 1, or -1 for no point
    masks: Tensor  # (P, 256, 256), uint8, first those of boxes


class PromptableTask(TaskBase):
    """See `supernet.tasks.task.training_task`.

    With a teacher the target is the picture as the teacher sees it, and the loss the mean
    square of the difference between the two image embeddings: EfficientViT-SAM's first stage.
    """

    name, primary = "promptable", "miou"

    def __init__(
        self,
        folder: Path | None,
        dataset: str | None,
        seed: int,
        num_train: int | None,
        augment: Augment,
        teacher: Path | None,
    ) -> None:
        super().__init__()
        self.folder, self.seed, self.augment = folder, seed, augment
        self.teacher = None if teacher is None else image_encoder_in(teacher)
        if folder is None:
            self.dataset = embedded_set(dataset, ("leaves",), self.name)
            self.num_train = num_train or NUM_TRAIN
            return
        self._train = AnnotatedPictures(folder, split="train")
        held = AnnotatedPictures(folder)
        self.notes = tuple(dict.fromkeys(self._train.notes + held.notes))
        train, self._held = separate(self._train.samples, held.samples, key=lambda pair: pair[0])
        if self._train.layout == "coco" and self.teacher is None:
            train = [pair for pair in train if pair[1].annotations]  # many pictures show nothing
        if not train:
            raise DataError(f"{folder} has no annotated pictures to train on")
        self._train.samples = evenly(train, num_train)
        self.num_train = len(self._train)
        known = self._train.layout != "folder"
        self.dataset = self._train.layout if known else name_of(folder)

    def data(self, augment: Augment) -> Dataset[Any]:
        side = None if self.teacher is None else self.teacher_arch.resolution[0]
        return _Prompted(self, augment, side)

    @property
    def teacher_arch(self) -> Arch:
        assert self.teacher is not None
        return cast(Arch, self.teacher.arch)

    def held_out(self, arch: Arch) -> tuple[Dataset[AnnotatedPicture], Metric]:
        return self.pictures_held_out(), cast(Metric, BoxIoU())

    def pictures_held_out(self) -> Dataset[AnnotatedPicture]:
        if self.folder is None:
            return _HeldOutLeaves(self.difficulty)
        held = AnnotatedPictures(self.folder)  # what is wrong with it was said
        held.samples = self._held
        return held

    def files_trained_on(self) -> list[Path]:
        return [] if self.folder is None else [path for path, _ in self._train.samples]

    def files_held_out(self) -> list[Path]:
        return [] if self.folder is None else [path for path, _ in self._held]

    def check_files(self) -> tuple[str, ...]:
        if self.folder is None or self.teacher is not None:  # a teacher needs no objects
            return super().check_files()
        return super().check_files() + self._train.check_objects()

    def read(self, index: int, size: tuple[int, int]) -> AnnotatedPicture:
        check_index(index, self.num_train)
        if self.folder is not None:
            return self._train[index]
        return leaves(f"leaves/{index}", size, training_rng(self.seed, index), self.difficulty)

    def loss(self, output: Tensor, target: Any, decoder: nn.Module | None) -> Tensor:
        if self.teacher is not None:
            self.teacher.to(output.device)
            with torch.no_grad():
                taught = self.teacher(target)
            return F.mse_loss(output.float(), taught.float())
        assert decoder is not None
        return decoded_loss(output, target, decoder)

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        return F.mse_loss(output.float(), teacher.detach().float())

    def evaluate(
        self,
        model: nn.Module,
        arch: Arch,
        *,
        limit: int | None,
        batch_size: int,
        workers: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> dict[str, float]:
        """`model` is a `Sam`; every object is segmented from its box."""
        data, metric = spread(self.pictures_held_out(), limit), BoxIoU()
        predictor = PromptablePredictor(cast(Sam, model))
        for batch in read_batches(data, batch_size=batch_size, workers=workers):
            for picture in batch:
                metric.update(predictor, picture)
        return {**metric.compute(), "n": float(len(data))}  # type: ignore[arg-type]


def decoded_loss(embedding: Tensor, prompts: Prompts, decoder: nn.Module) -> Tensor:
    """SAM's loss of all prompts of a batch, half of them boxes and half points.

    Args:
        embedding: (B, C, h, w).
        decoder: with SAM's `prompt_encoder` and `mask_decoder`.
    """
    encoder = cast(PromptEncoder, decoder.prompt_encoder)
    half = prompts.boxes.shape[1]
    kinds = (
        encoder(boxes=prompts.boxes.flatten(0, 1)),
        encoder(points=prompts.points.flatten(0, 1), labels=prompts.labels.flatten(0, 1)),
    )
    total = embedding.new_zeros((), dtype=torch.float32)
    for (tokens, dense), masks in zip(
        kinds, (prompts.masks[:, :half], prompts.masks[:, half:]), strict=True
    ):
        logits, predicted_iou = cast(MaskDecoder, decoder.mask_decoder)(
            embedding.repeat_interleave(half, dim=0).to(tokens.dtype),
            encoder.image_positions(),
            tokens,
            dense,
            multimask=True,
        )
        total = total + prompt_loss(logits, predicted_iou, masks.flatten(0, 1)) / 2
    return total


def image_encoder_in(path: Path) -> nn.Module:
    """The image encoder of one of our files of a promptable network, frozen.

    Raises WeightsError if the file is of no such network.
    """
    arch = arch_in(path)
    if arch is None or not isinstance(arch.head, PromptableHead):
        has = "does not tell its architecture" if arch is None else f"is for {arch.task}"
        raise WeightsError(f"{path} {has}; a teacher is a promptable network's .safetensors")
    model = load_network(arch, path)
    assert isinstance(model, Sam)  # as its head says
    return model.image_encoder.eval().requires_grad_(False)


def leaves(
    name: str, size: tuple[int, int], rng: np.random.Generator, difficulty: float
) -> AnnotatedPicture:
    """Dead leaves and the visible part of each that is large enough, largest first."""
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


def ask(picture: AnnotatedPicture, rng: np.random.Generator, *, mirrored: bool) -> Prompts:
    """Random objects, again where there are few, and boxes or points for them.

    Objects without a pixel are passed over. Raises NoObjectError where nothing is left.
    """
    height, width = picture.pixels.shape[:2]
    scale = FRAME / max(height, width)
    masks: list[Mask] = []
    order = rng.permutation(len(picture.instances))
    for number in order:
        mask = picture.instances[number].decode()
        if mask.any():
            masks.append(mask[:, ::-1] if mirrored else mask)
        if len(masks) == PROMPTS:
            break
    if not masks:
        raise NoObjectError(f"{picture.path} has no object to ask for")
    masks = [masks[i % len(masks)] for i in range(PROMPTS)]
    half = PROMPTS // 2
    boxes = np.array([box_of(mask) for mask in masks[:half]]) * scale
    points = np.zeros((half, POINTS, 2))
    labels = np.full((half, POINTS), PADDING)
    for row, mask in enumerate(masks[half:]):
        inside = np.flatnonzero(mask)
        count = int(rng.integers(1, POINTS + 1))
        y, x = np.divmod(inside[rng.integers(len(inside), size=count)], width)
        points[row, :count] = (np.stack([x, y], 1) + 0.5) * scale - 0.5
        labels[row, :count] = FOREGROUND
    return Prompts(
        torch.from_numpy(boxes).float(),
        torch.from_numpy(points).float(),
        torch.from_numpy(labels),
        torch.from_numpy(np.stack([low_resolution(mask) for mask in masks])),
    )


def low_resolution(mask: Mask) -> NDArray[np.uint8]:
    """(H, W) as the decoder's masks have it: (256, 256), the picture at the top left."""
    height, width = resized(mask.shape[0], mask.shape[1], LOW_RESOLUTION)
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    small = np.asarray(image.resize((width, height), Image.Resampling.BOX)) > 127
    padded = np.zeros((LOW_RESOLUTION, LOW_RESOLUTION), np.uint8)
    padded[:height, :width] = small
    return padded


class _Prompted(Dataset[tuple[Tensor, Any]]):
    """data[Draw] -> (3, S, S) and Prompts, or the picture at the teacher's size."""

    def __init__(self, task: PromptableTask, augment: Augment, teacher_side: int | None) -> None:
        self.task, self.augment, self.teacher_side = task, augment, teacher_side

    def __len__(self) -> int:
        return self.task.num_train

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Any]:
        for further in range(self.task.num_train):  # past pictures without an object
            with suppress(NoObjectError):
                return self._sample(draw, (draw.index + further) % self.task.num_train)
        raise DataError(f"{self.task.folder} has no picture with an object to ask for")

    def _sample(self, draw: Draw, index: int) -> tuple[Tensor, Any]:
        picture, rng = self.task.read(index, draw.size), draw.rng()
        mirrored = self.augment.flip and bool(rng.random() < 0.5)
        pixels = picture.pixels[:, ::-1] if mirrored else picture.pixels
        pixels = photometric(np.ascontiguousarray(pixels), rng, self.augment.photometric)
        x = prepare_image(pixels, draw.size[0])
        if self.teacher_side is not None:
            return x, prepare_image(pixels, self.teacher_side)
        return x, ask(picture, rng, mirrored=mirrored)


class _HeldOutLeaves(Dataset[AnnotatedPicture]):
    def __init__(self, difficulty: float) -> None:
        self.difficulty = difficulty

    def __len__(self) -> int:
        return NUM_VAL

    def __getitem__(self, index: int) -> AnnotatedPicture:
        check_index(index, NUM_VAL)
        found = leaves(f"held out/{index}", (SIDE, SIDE), held_out_rng(index), self.difficulty)
        return AnnotatedPicture(found.path, found.pixels, found.instances[:HELD_OUT_LEAVES])
