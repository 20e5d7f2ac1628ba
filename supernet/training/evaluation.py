"""What subnets of a training reach on held-out pictures, between its steps and in the end."""

import copy
import math
from typing import Any

from torch import nn

from supernet.arch import Arch, format_resolution
from supernet.evaluation.batchnorm import recalibrate
from supernet.evaluation.recalibrated import Recalibration
from supernet.memory import within_memory
from supernet.tasks.task import EvaluationSettings, Task
from supernet.training.plan import TrainingPlan
from supernet.training.trainer import SingleNetwork, Trainer
from supernet.weights.header import HeldOutFigure


def evaluate_subnet(
    trainer: Trainer, plan: TrainingPlan, arch: Arch, limit: int | None
) -> dict[str, float]:
    """Return the task's figures of a subnet on `limit` pictures, its statistics computed anew.

    Where there is an average of the weights, it is evaluated in their place.
    """
    with within_memory():
        with trainer.averaged():
            model = _network(trainer, plan, arch)
        settings = EvaluationSettings(
            pictures_at_once(trainer, plan), limit, plan.options.workers, trainer.ranks.device
        )
        return plan.task.evaluate(model.eval(), arch, settings)


def pictures_at_once(trainer: Trainer, plan: TrainingPlan) -> int:
    """Return how many pictures an evaluation runs together: as many as a step does."""
    return max(1, plan.options.batch_size // trainer.num_parts)


def _network(trainer: Trainer, plan: TrainingPlan, arch: Arch) -> nn.Module:
    """Return a subnet alone, which shares no tensor with what is trained."""
    trained = trainer.model
    if isinstance(trained, SingleNetwork):
        network: nn.Module = copy.deepcopy(trained.network)
        return network
    model = trained.extract(arch)
    # as supernet.evaluate does, so that it finds the same figures
    chosen = Recalibration(plan.options.recalibration_images)
    pictures = plan.task.recalibration_batches(
        arch, chosen.num_images, chosen.even_batch, chosen.seed, plan.options.workers
    )
    recalibrate(model, pictures)
    return model


def held_out_figure(task: Task, figures: dict[str, float]) -> HeldOutFigure | None:
    """Return the task's primary figure for the header of weights; None where it is not finite."""
    value, stderr = figures[task.primary], figures.get(f"{task.primary}_stderr")
    if not math.isfinite(value):
        return None
    return HeldOutFigure(
        metric=task.primary,
        value=value,
        stderr=stderr if stderr is not None and math.isfinite(stderr) else None,
        n=int(figures["n"]),
        dataset=task.dataset,
    )


def row_of(
    name: str,
    arch: Arch,
    figures: dict[str, float],
    task: Task,
    circumstances: dict[str, Any],
) -> dict[str, Any]:
    """Return the row of a subnet in evaluation.json; `circumstances` are fields of it."""
    return {
        "subnet": name,
        "arch": arch.to_dict(),
        "metric": task.primary,
        "value": figures[task.primary],
        "stderr": figures.get(f"{task.primary}_stderr"),
        "n": int(figures["n"]),
        **circumstances,
        "task": task.name,
        "dataset": task.dataset,
        "resolution": format_resolution(arch.resolution),
        "metrics": figures,
    }
