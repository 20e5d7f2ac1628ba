"""Networks of a space as a CSV, with their latencies and, from evaluated subnets, accuracies.

They are drawn at random, or proposed: those whose evaluation tells most about the Pareto front.
"""

import csv
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lut.device import device_names
from lut.runtimes.versions import remark_here
from nas.objectives.accuracy import (
    Asked,
    check_asked,
    check_trained,
    load_first_level,
    subnets_file,
)
from nas.options import FITTED, MODEL, PUBLISHED, SampleOptions
from nas.proposals import Known, check_count, propose
from predictors.batch import Batch
from predictors.evaluations import read_evaluations
from predictors.latency import LatencyPredictor, choose_predictor
from predictors.two_levels import FirstLevel, TwoLevelPredictor, fit_two_levels
from predictors.worth import Array
from results.errors import DeviceError, PredictorError, SpaceError, UserError, check_least
from results.files import write_text
from supernet.arch import Arch
from supernet.official import check_task, dataset_of
from supernet.space import Space
from supernet.spaces import DEFAULT_SPACE, get_space

DRAWN = 1000  # networks, where no flag says otherwise
TASK = "classification"
COLUMNS = ("arch", "latency_ms", "latency_std_ms")
FURTHER = ("accuracy", "accuracy_std")  # with an accuracy file
EVALUATE = "python -m supernet.evaluate --weights CHECKPOINT.safetensors --sample 50 --out"


@dataclass(frozen=True)
class Sampled:
    """What was written, and where its numbers come from."""

    path: Path
    count: int
    space: Space
    latency: LatencyPredictor
    accuracy: FirstLevel | TwoLevelPredictor | None

    def to_dict(self) -> dict[str, Any]:
        """Return what --json prints."""
        provenance = self.latency.provenance
        found = {"csv": str(self.path), "archs": self.count, "provenance": provenance}
        return found if self.accuracy is None else found | {"accuracy": self.accuracy.to_dict()}


def sample(options: SampleOptions, *, tell: Callable[[str], object] | None = None) -> Sampled:
    """Write networks of a space into a CSV: drawn at random, or proposed for evaluation.

    `tell` is given what a reader of the latencies should know, in one line.

    Raises UserError for whatever the options name wrongly, before anything is written.
    """
    path = _check(options)
    first, predictor = _predictors(options)
    space = predictor.space.freeze(options.freeze) if predictor else _space(options)
    task = predictor.task if predictor else check_task(options.task or TASK)
    dataset = space.dataset or dataset_of(task, options.dataset)
    _, latency = choose_predictor(options.device[0], options.table, dataset)
    if tell and (remark := remark_here(latency.table.sidecar)):
        tell(remark)
    if options.propose is None:
        batch = Batch.of(space, _drawn(space, options.sample, options.seed))
    else:
        assert first is not None
        known = Known(first, latency, read_evaluations(Path(options.accuracy)))
        batch = propose(known, space, options.propose, options.seed)
    numbers = [*latency.predict_many(batch)]
    if predictor is not None:
        numbers += predictor.predict_many(batch)
    write_text(path, _csv(batch.archs, numbers))
    return Sampled(path, len(batch), space, latency, predictor)


def _check(options: SampleOptions) -> Path:
    """Return the file to write. Raises UserError where flags do not go together."""
    if options.costs is None:
        raise UserError("name the file to write by --costs FILE.csv")
    check_least("--sample", options.sample, 1)
    check_least("--seed", options.seed, 0)
    if len(options.device) != 1:
        raise DeviceError(f"give one --device: {', '.join(device_names())}")
    if options.accuracy == PUBLISHED and options.accuracy_model != FITTED:
        raise PredictorError(
            "--accuracy-model tells what is fitted to --accuracy FILE.jsonl; leave it out"
        )
    check_trained(options.accuracy, options.trained)
    if options.propose is not None:
        check_count(options.propose)
        _check_propose(options)
    return options.costs


def _check_propose(options: SampleOptions) -> None:
    """Raise UserError where nothing can be proposed."""
    if options.sample is not None:
        raise UserError("--sample draws networks and --propose chooses them; leave one out")
    if options.trained is not None:
        raise UserError("--propose is for evaluation with shared weights; leave --trained out")
    source = options.accuracy
    cure = "give the FILE.jsonl that supernet.evaluate wrote by --accuracy"
    if source == PUBLISHED:
        raise PredictorError(
            f"--propose learns from evaluated networks: {cure}; without one: `{EVALUATE} "
            "subnets.jsonl`"
        )
    if Path(source).suffix == MODEL:
        raise PredictorError(
            f"{source} is a fitted model, and does not hold the networks that it was fitted to; "
            f"{cure}"
        )


def _predictors(
    options: SampleOptions,
) -> tuple[FirstLevel | None, FirstLevel | TwoLevelPredictor | None]:
    """Return what predicts accuracies with shared weights, and those that are written.

    Raises UserError where flags ask for something else.
    """
    if options.accuracy == PUBLISHED:
        return None, None
    path = subnets_file(options.accuracy)
    first = load_first_level(path, options.space, options.accuracy_model)
    predictor = fit_two_levels(first, options.trained) if options.trained else first
    task = check_task(options.task) if options.task else predictor.task
    asked = Asked(task, options.dataset, options.space, options.num_classes)
    check_asked(asked, path, predictor.dataset, predictor.space)
    return first, predictor


def _space(options: SampleOptions) -> Space:
    return get_space(
        options.space or DEFAULT_SPACE,
        task=check_task(options.task or TASK),
        dataset=options.dataset,
        freeze=options.freeze,
        num_classes=options.num_classes,
    )


def _drawn(space: Space, count: int | None, seed: int) -> list[Arch]:
    """Return distinct networks at random. Raises SpaceError where the space has fewer."""
    count = min(DRAWN, space.size) if count is None else count
    if count > space.size:
        raise SpaceError(
            f"space {space.name} has only {space.size} archs; give --sample {space.size}, not "
            f"{count}"
        )
    rng, drawn = random.Random(seed), dict[Arch, None]()
    while len(drawn) < count:
        drawn[space.sample(rng)] = None
    return list(drawn)


def _csv(archs: Sequence[Arch], numbers: Sequence[Array]) -> str:
    """Return a CSV of networks and columns of numbers, to six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *FURTHER)[: 1 + len(numbers)])
    for arch, *row in zip(archs, *numbers, strict=True):
        writer.writerow((arch.to_json(), *(f"{number:.6g}" for number in row)))
    return text.getvalue()
