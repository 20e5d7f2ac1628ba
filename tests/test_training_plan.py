"""What the options of a training leave open, without training."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
from PIL import Image

from supernet.evaluation.options import EvaluationOptions
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
    assert (plan.options.random_subnets, plan.options.recalibration_images) == (0, 0)
    plan = plan_training(TrainingOptions(space="tiny", steps=30, warmup=99, clip=0.0))
    assert (plan.recipe.num_steps, plan.recipe.warmup, plan.recipe.clip) == (30, 30, None)
    assert (plan.options.random_subnets, plan.options.recalibration_images) == (2, 512)


NOT_USED = {  # files, folders, limits and intervals, of which none was given
    *("arch", "space", "data", "init", "costs", "teacher", "out", "resume"),
    *("alpha", "ema", "checkpoint_every", "eval_every", "limit", "num_train"),
    *("epochs", "class_order", "workers"),  # see ResolvedOptions
}


@pytest.mark.parametrize(
    "options",
    [
        TrainingOptions(arch="b0", num_classes=12, resolution=("64",), num_train=8),
        TrainingOptions(space="tiny", task="super_resolution", epochs=2),
        TrainingOptions(space="b", task="segmentation"),
    ],
)
def test_a_plan_has_no_option_open_and_keeps_those_given(options):
    plan = plan_training(options)
    chosen = plan.options
    left_open = {f.name for f in fields(chosen) if getattr(chosen, f.name) is None}
    assert left_open <= NOT_USED | ({"num_classes"} if plan.task.num_classes is None else set())
    assert chosen.steps == plan.recipe.num_steps
    assert chosen.steps == -(-(options.epochs or 20) * plan.task.num_train // 64)
    assert (chosen.task, chosen.dataset) == (plan.task.name, plan.task.dataset)
    assert (chosen.augment, chosen.warmup) == ("embedded", chosen.steps // 20)
    assert plan.given == options.with_defaults()  # which run.json holds
    assert (plan.given.task, plan.given.steps, plan.given.epochs) == (
        options.task, None, options.epochs
    )  # fmt: skip


@pytest.mark.parametrize(
    ("task", "data", "expected"),
    [
        ("classification", None, 64),
        ("classification", Path(), 32),
        ("segmentation", None, 64),
        ("segmentation", Path(), 1),
        (None, Path(), 64),
    ],
)
def test_pictures_are_evaluated_as_many_at_a_time_as_suit_them(task, data, expected):
    options = EvaluationOptions(data=data)
    assert options.pictures_at_once(task) == expected
    assert replace(options, batch_size=3).pictures_at_once(task) == 3
