"""What the options of a training leave open, without training."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from supernet.training.options import TrainingOptions
from supernet.training.plan import plan_training


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
    ("options", "erasing"),
    [
        (TrainingOptions(space="l"), 0.2),
        (TrainingOptions(arch="l1"), 0.2),
        (TrainingOptions(space="b"), 0.0),
        (TrainingOptions(arch="b1"), 0.0),
        (TrainingOptions(space="all"), 0.0),  # that of b, as all train together
        (TrainingOptions(space="l", augment="plain"), 0.0),
    ],
)
def test_the_official_augmentation_is_the_family_s(options, erasing, folder):
    task = plan_training(replace(options, data=folder)).task
    assert task.augment.erasing == erasing
    assert task.augment.mixup == (0.0 if options.augment else 0.1)


def test_what_is_left_open_is_told_by_data_and_network(folder):
    plan = plan_training(TrainingOptions(arch="b0", data=folder, epochs=100, batch_size=2))
    assert (plan.task.name, plan.task.num_classes) == ("classification", 2)
    assert (plan.recipe.num_steps, plan.recipe.warmup) == (100 * plan.task.num_train // 2, 7)
    assert (plan.recipe.lr, plan.recipe.clip, plan.recipe.precision) == (1e-3, 2.0, "fp32")
    assert (plan.random_subnets, plan.recalibration_images) == (0, 0)
    plan = plan_training(TrainingOptions(space="tiny", steps=30, warmup=99, clip=0.0))
    assert (plan.recipe.num_steps, plan.recipe.warmup, plan.recipe.clip) == (30, 30, None)
    assert (plan.random_subnets, plan.recalibration_images) == (2, 512)
