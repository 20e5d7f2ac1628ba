"""A task small enough for tests: which of four corners of a picture is bright."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from supernet.spaces import get_space
from supernet.tasks.task import Draw

NUM_CLASSES, NUM_TRAIN = 4, 48
SIZE = (32, 32)
FROZEN = (
    "resolution=64",
    *(f"stage{n}.depth=1" for n in (2, 3, 4)),
    "stage3.mixer=relu_linear",
    "stage4.mixer=none",
)


def small_space():
    """Widths, kernels and scales of `tiny`."""
    return get_space("tiny", freeze=FROZEN, num_classes=NUM_CLASSES)


class Corners(Dataset[Any]):
    def __getitem__(self, draw: Draw):
        generator = torch.Generator().manual_seed(draw.index + 1000 * draw.epoch)
        x = torch.randn(3, *draw.size, generator=generator)
        label = draw.index % NUM_CLASSES
        half = draw.size[0] // 2
        top, left = half * (label // 2), half * (label % 2)
        x[:, top : top + half, left : left + half] += 2
        return x, torch.tensor(label)


class Blobs:
    """A `TrainingTask` without files and processes."""

    name, dataset, primary = "classification", "blobs", "top1"
    num_train = NUM_TRAIN
    num_classes: int | None = NUM_CLASSES
    classes: tuple[str, ...] = ()

    def check_labels(self, limit=None, *, training=False, silent=True):
        return ()

    def check_files(self):
        return ()

    def files_trained_on(self):
        return []

    def train_data(self):
        return Corners()

    def collate(self, samples):
        pictures, labels = zip(*samples, strict=True)
        return torch.stack(pictures), torch.stack(labels)

    def mix(self, x, target, generator):
        return x, target

    def loss(self, output, target, decoder):
        return functional.cross_entropy(output, target)

    def distill(self, output, teacher, alpha):
        wanted = teacher.softmax(1)
        return (wanted * (wanted.log() - output.log_softmax(1))).sum(1).mean()

    def evaluate(self, model, arch, *, limit, batch_size, workers, device, dtype):
        draws = [Draw(i, 99, arch.resolution, 0) for i in range(limit or 16)]
        x, labels = self.collate([Corners()[draw] for draw in draws])
        with torch.no_grad():
            right = (model(x).argmax(1) == labels).float()
        return {"top1": 100 * right.mean().item(), "n": float(len(draws))}

    def recalibration_batches(
        self, arch, num_images, batch_size, seed, workers=None
    ) -> Iterator[Tensor]:
        for _ in range(num_images // batch_size):
            yield torch.stack([Corners()[Draw(i, 0, SIZE, seed)][0] for i in range(batch_size)])
