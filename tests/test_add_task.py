"""A task made by what "Add a task" in CONTRIBUTING.md says: how bright is a picture?"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import Dataset

from predictors.evaluations import PRIMARY
from results.errors import ArchError, UserError
from supernet.arch import Arch, ClassificationHead, Head, Stage, Stem
from supernet.evaluation.folders import open_data
from supernet.model import build
from supernet.official import DATASETS
from supernet.pictures import to_tensor
from supernet.tasks.choose import TRAINED, training_task
from supernet.tasks.draw import PLAIN
from supernet.tasks.options import TASKS, TaskOptions
from supernet.tasks.sources import Embedded
from supernet.tasks.task import EvaluationSettings, Task
from supernet.training.batches import PartDraws, PictureOrder, read_parts
from supernet.training.sandwich import OneArch
from supernet.training.trainer import Recipe, SingleNetwork, Trainer
from supernet.weights.header import WeightsHeader
from tests.conftest import ROOT

STAGES = (Stage(8, 1), Stage(8, 1), Stage(8, 1), Stage(8, 1))
ARCH = Arch("b", (32, 32), Stem(8, 1), STAGES, ClassificationHead((16, 16), 1))


class Grey(Embedded[tuple[Any, float]]):
    """Noise of any brightness, which is to be told."""

    def __init__(self, options):
        super().__init__(options, ("grey",))

    def draw(self, index, size, rng):
        light = float(rng.uniform(0.1, 0.9))
        noise = rng.normal(255 * light, 9, (*size, 3))
        return noise.clip(0, 255).astype(np.uint8), light

    def held_out(self, arch):
        return HeldOut(self, arch.resolution)


class HeldOut(Dataset[Any]):
    def __init__(self, source, size):
        self.source, self.size = source, size

    def __len__(self):
        return self.source.num_held_out

    def __getitem__(self, index):
        return as_sample(*self.source.read_held_out(index, self.size))


def as_sample(pixels, light):
    return to_tensor(pixels) / 255, torch.tensor([light])


class Brightness(Task):
    name, primary = "brightness", "nearness"

    def __init__(self, options):
        super().__init__(Grey(options), PLAIN)

    def sample(self, draw, augment):
        return as_sample(*self.source.read(draw.index, draw.size))

    def loss(self, output, target, decoder):
        return functional.l1_loss(output.float(), target)

    def distill(self, output, teacher, alpha):
        return functional.l1_loss(output.float(), teacher.detach().float())

    def held_out(self, arch):
        return self.source.held_out(arch), Nearness()


@dataclass(frozen=True)
class Level:
    """A head of the task."""

    task: ClassVar[str] = "brightness"


class Nearness:
    def __init__(self):
        self.errors: list[float] = []

    def update(self, output, target):
        self.errors += (output - target).abs().flatten().tolist()

    def compute(self):
        return {"nearness": 1 - float(np.mean(self.errors))}


def test_it_trains_and_is_evaluated():
    torch.manual_seed(0)
    task = Brightness(TaskOptions("classification", num_train=64))
    network = build(ARCH)
    trainer = Trainer(SingleNetwork(network), task, OneArch(ARCH, 0), Recipe(2, lr=0.01, warmup=0))
    settings = EvaluationSettings(16, limit=32, workers=0)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    order = PictureOrder(task.num_train, 16, 0)
    draws = PartDraws(trainer.sampler, order, range(2), trainer.parts, trainer.num_parts)
    losses = [trainer.step(batch).loss for batch in read_parts(task, draws, workers=0)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    model = network.eval()
    figures = task.evaluate(model, ARCH, settings)
    data = task.held_out(ARCH)[0]
    assert figures["n"] == 32
    again = task.evaluate(model, ARCH, EvaluationSettings(7, limit=32, workers=0))
    assert figures == pytest.approx(again, abs=1e-6)
    with torch.no_grad():
        x, light = data[0]
        (first,) = (float(e) for e in (model(x[None]) - light).abs().flatten())
    alone = task.evaluate(model, ARCH, EvaluationSettings(1, limit=1, workers=0))
    assert alone == {"nearness": pytest.approx(1 - first), "n": 1}
    assert task.source.check_labels() == task.source.check_files() == ()


def test_a_task_without_one_of_the_methods_is_none():
    class Forgetful(Brightness):
        loss: Any = Task.loss

    with pytest.raises(TypeError, match="abstract"):
        Forgetful(TaskOptions("classification"))


@pytest.mark.parametrize("name", TASKS)
def test_commands_find_a_task_where_it_is_listed(name):
    assert training_task(TaskOptions(name)).name == name
    assert name in {head.task for head in get_args(Head)}
    if name != "pretrain":  # which has neither published figures nor a place in a search
        assert name in DATASETS
        assert PRIMARY[name] == training_task(TaskOptions(name)).primary


def test_a_task_that_was_forgotten_is_named(monkeypatch, tmp_path):
    """Step 3, one place after the other."""
    with pytest.raises(UserError, match="no task 'brightness'"):
        TaskOptions("brightness")
    monkeypatch.setattr("supernet.tasks.options.TASKS", (*TASKS, "brightness"))
    options = TaskOptions("brightness", num_train=4)
    with pytest.raises(ArchError, match=r"choose\.py has nothing for brightness; see CONTRIBUTING"):
        training_task(options)
    monkeypatch.setitem(TRAINED, "brightness", Brightness)
    assert isinstance(training_task(options), Brightness)

    head: Any = Level()
    arch = replace(ARCH, head=head)
    with pytest.raises(
        ArchError, match=r"folders\.py has nothing for brightness; see CONTRIBUTING"
    ):
        open_data(arch, WeightsHeader(), tmp_path)


def test_the_page_names_what_is_there():
    page = (
        (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a task")[2].partition("\n## ")[0]
    )
    for path in page.split("`")[1::2]:
        assert not path.endswith(".py") or "NAME" in path or (ROOT / path).is_file(), path
    for method in Task.__abstractmethods__ | {"name", "primary"}:
        assert f"`{method}`" in page
