"""What flags name, looked up, without training."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from supernet.train import Train
from supernet.training.plan import gather


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes of two pictures."""
    root: Path = tmp_path_factory.mktemp("pictures")
    for label in ("cat", "dog"):
        (root / label).mkdir()
        for number in range(2):
            Image.new("RGB", (8, 8)).save(root / label / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("command", "erasing"),
    [
        (Train(space="l"), 0.2),
        (Train(arch="l1"), 0.2),
        (Train(space="b"), 0.0),
        (Train(arch="b1"), 0.0),
        (Train(space="all"), 0.0),  # that of b, as all train together
        (Train(space="l", augment="plain"), 0.0),
    ],
)
def test_the_official_augmentation_is_the_family_s(command, erasing, folder):
    task = gather(replace(command, data=folder)).task
    assert task.augment.erasing == erasing  # type: ignore[attr-defined]
    assert task.augment.mixup == (0.0 if command.augment else 0.1)  # type: ignore[attr-defined]
