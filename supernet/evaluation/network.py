"""One network with weights of its own, evaluated on a folder or on embedded pictures."""

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import Dataset

from results.errors import ArchError, DataError, WeightsError
from results.progress import progress
from supernet.arch import Arch, format_resolution, parse_resolution
from supernet.evaluation.folders import open_data
from supernet.evaluation.recalibrated import naming_memory, task_of
from supernet.evaluation.report import unit_of
from supernet.official import DATASETS, check_task, known_name
from supernet.resolve import resolve_arch
from supernet.sam.model import Sam
from supernet.sam.predictor import PromptablePredictor
from supernet.sharing.checkpoint import resolutions_in
from supernet.tasks.class_order import check_order
from supernet.tasks.classification import TopAccuracy
from supernet.tasks.labelled_pictures import layout_of
from supernet.tasks.loop import evaluate, read_batches
from supernet.tasks.promptable import BoxIoU
from supernet.tasks.splits import spread
from supernet.tasks.task import EvaluationSettings
from supernet.weights.files import arch_in, load_network, sha256_of

if TYPE_CHECKING:
    from supernet.evaluate import Evaluate

BATCH = 64  # as of subnets, so that an extracted one gets the same figures


def evaluate_network(command: "Evaluate") -> dict[str, Any]:
    """Figures of the network that the flags of `command` name, and where they come from.

    Raises UserError for flags, weights and pictures that do not go together.
    """
    assert command.weights is not None
    arch = _arch(command)
    said: list[str] = []  # of the weights
    model = load_network(arch, command.weights, tell=said.append)
    model = model.eval().to(torch.device(command.accelerator), command.dtype)
    started = time.perf_counter()
    notes: tuple[str, ...] = ()
    if command.data is None:
        dataset, metrics = _on_embedded(command, model, arch)
    else:
        dataset, metrics, notes = _on_folder(command, model, arch)
    number = int(metrics.pop("n"))
    answer: dict[str, Any] = {
        "task": arch.task,
        "dataset": dataset,
        "data": None if command.data is None else str(command.data),
        "arch": arch.to_dict(),
        "weights": str(command.weights),
        "weights_sha256": sha256_of(command.weights),
        "n": number,
        "metrics": metrics,
        "units": {name: unit_of(name) for name in metrics},
        "provenance": "trained",
        "resolution": None
        if arch.task == "super_resolution"
        else format_resolution(arch.resolution),
        "precision": command.precision,
        "accelerator": command.accelerator,
        "seconds": time.perf_counter() - started,
    }
    notes = (*said, *notes)
    return answer | ({"notes": list(notes)} if notes else {})


def _on_embedded(command: "Evaluate", model: nn.Module, arch: Arch) -> tuple[str, dict[str, float]]:
    assert command.weights is not None
    task = task_of(arch, command.weights, None)
    with naming_memory():
        settings = EvaluationSettings(
            command.batch_size or BATCH,
            command.limit,
            command.workers,
            torch.device(command.accelerator),
            command.dtype,
        )
        metrics = task.evaluate(model, arch, settings)
    return task.dataset, metrics


def _on_folder(
    command: "Evaluate", model: nn.Module, arch: Arch
) -> tuple[str, dict[str, float], tuple[str, ...]]:
    assert command.data is not None
    assert command.weights is not None
    opened = open_data(
        arch,
        command.weights,
        command.data,
        limit=command.limit,
        class_order=command.class_order,
        silent=command.json or command.quiet,
    )
    if opened.is_known and command.dataset not in (None, opened.name):
        raise DataError(
            f"{command.data} is {opened.name}, not {command.dataset}; leave --dataset out"
        )
    data = spread(opened.data, command.limit)
    with naming_memory():
        metrics = _measure(command, model, data, opened.metric)
    notes, metric = opened.notes, opened.metric
    if isinstance(metric, BoxIoU) and metric.reason and not any(metric.reason in n for n in notes):
        notes += (f"of objects that are left out, the first: {metric.reason}",)
    return opened.name, {**metrics, "n": len(data)}, notes  # type: ignore[arg-type]


def _arch(command: "Evaluate") -> Arch:
    """Of the flags, or that which the weights carry."""
    weights = command.weights
    assert weights is not None
    task = check_task(command.task) if command.task else None
    resolution = parse_resolution(command.resolution) if command.resolution else None
    if command.arch is None:
        found = arch_in(weights)
        if found is None:
            raise WeightsError(f"{weights} does not tell its architecture; name it by --arch")
        trained_at = max(resolutions_in(weights), default=found.resolution)
        arch = replace(found, resolution=resolution or trained_at)
    else:
        find = partial(
            resolve_arch, command.arch, resolution=resolution, num_classes=command.num_classes
        )
        official = known_name(command.arch)
        name = official[0] if official else command.arch.lower()
        own = None if official else find()
        if own is not None and task in (None, own.task):
            arch = own
        else:
            layout = _official_layout(command)
            if task is None and layout and not name.startswith(("sam_", "sr_")):
                task = "segmentation"
            dataset = command.dataset or (layout if task == "segmentation" else None)
            arch = find(task=task, dataset=dataset)
    classes = getattr(arch.head, "num_classes", None)
    if command.num_classes not in (None, classes):
        has = f"{classes} classes" if classes else "no classes"
        raise ArchError(f"the network has {has}; leave --num-classes {command.num_classes} out")
    if arch.head is None:
        raise ArchError(f"the arch of {weights} has no head, so it performs no task")
    if task not in (None, arch.task):
        raise ArchError(f"the arch does {arch.task}; leave --task {task} out, or name another")
    check_order(command.class_order, arch.task, command.data)
    known = DATASETS.get(arch.task, ())
    if command.dataset is not None and command.dataset not in known:
        listed = ", ".join(known) or "none, leave it out"
        raise DataError(f"{command.dataset} is no data set for {arch.task} (choose from {listed})")
    return arch


def _official_layout(command: "Evaluate") -> str | None:
    """cityscapes or ade20k, where the folder is laid out so: it asks for such a head."""
    if command.data is None:
        return None
    try:
        layout = layout_of(command.data)
    except DataError:
        return None
    return None if layout == "folder" else layout


def _measure(
    command: "Evaluate", model: nn.Module, data: Dataset[Any], metric: Any
) -> dict[str, float]:
    weight = next(model.parameters())
    batches = read_batches(
        data,
        batch_size=command.batch_size or (32 if isinstance(metric, TopAccuracy) else 1),
        workers=command.workers,
        pin_memory=command.accelerator == "cuda",
    )
    total = len(data)  # type: ignore[arg-type]
    silent = command.json or command.quiet
    with progress(total, silent=silent, label="evaluating", unit="pictures") as done:
        if isinstance(model, Sam):
            predictor = PromptablePredictor(model)
            for number, picture in enumerate((p for batch in batches for p in batch), start=1):
                metric.update(predictor, picture)
                done(number)
        else:
            evaluate(model, batches, metric, device=weight.device, dtype=weight.dtype, done=done)
    found: dict[str, float] = metric.compute()
    return found
