"""A task small enough for tests: which of four corners of a picture is bright."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from supernet.spaces import get_space
from supernet.tasks.draw import PLAIN, Draw
from supernet.tasks.options import TaskOptions
from supernet.tasks.sources import Embedded
from supernet.tasks.task import Task

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


class Corners(Embedded[int]):
    """Numbers of corners."""

    num_classes = NUM_CLASSES

    def __init__(self):
        super().__init__(TaskOptions("classification", num_train=NUM_TRAIN), ("blobs",))

    def draw(self, index, size, rng):
        return index % NUM_CLASSES

    def held_out(self, arch):
        raise NotImplementedError


class Blobs(Task):
    """A task without files and processes."""

    name, primary = "classification", "top1"

    def __init__(self):
        super().__init__(Corners(), PLAIN)

    def sample(self, draw, augment):
        generator = torch.Generator().manual_seed(draw.index + 1000 * draw.epoch)
        x = torch.randn(3, *draw.size, generator=generator)
        label = draw.index % NUM_CLASSES
        half = draw.size[0] // 2
        top, left = half * (label // 2), half * (label % 2)
        x[:, top : top + half, left : left + half] += 2
        return x, torch.tensor(label)

    def loss(self, output, target, decoder):
        return functional.cross_entropy(output, target)

    def distill(self, output, teacher, alpha):
        wanted = teacher.softmax(1)
        return (wanted * (wanted.log() - output.log_softmax(1))).sum(1).mean()

    def held_out(self, arch):
        raise NotImplementedError

    def evaluate(self, model, arch, settings):
        draws = [Draw(i, 99, arch.resolution, 0) for i in range(settings.limit or 16)]
        x, labels = self.collate([self.sample(draw, PLAIN) for draw in draws])
        with torch.no_grad():
            right = (model(x).argmax(1) == labels).float()
        return {"top1": 100 * right.mean().item(), "n": float(len(draws))}

    def recalibration_batches(
        self, arch, num_images, batch_size, seed, workers=None
    ) -> Iterator[Tensor]:
        draws = [Draw(i, 0, SIZE, seed) for i in range(batch_size)]
        for _ in range(num_images // batch_size):
            yield torch.stack([self.sample(draw, PLAIN)[0] for draw in draws])
