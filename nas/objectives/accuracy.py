"""`--accuracy` and `--evaluate`: where a search's accuracies come from, and in which space.

published: the scaling law on published figures. FILE.jsonl: a predictor fitted on evaluated
subnets. MODEL.npz: one that `predictors.fit` fitted. With `--trained`, what either says is worth
once a network is trained alone. CHECKPOINT.safetensors with `--evaluate supernet`: every trial is
evaluated on it.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lut.sidecar import SpaceFlags
from lut.table import Table
from nas.objectives.sources import AccuracySource, PredictedAccuracy
from nas.objectives.supernet_accuracy import open_checkpoint
from nas.options import (
    ACCURACY_MODELS,
    CHECKPOINT,
    EVALUATED_BY,
    FITTED,
    MODEL,
    PLAIN,
    PUBLISHED,
    SUPERNET,
    SearchOptions,
)
from predictors.accuracy import published
from predictors.evaluated_space import space_of_subnets
from predictors.evaluations import read_evaluations
from predictors.shape import judged_space
from results.errors import (
    ArchError,
    PredictorError,
    SearchError,
    check_choice,
    nearest,
)
from supernet.arch import Task
from supernet.official import dataset_of
from supernet.space import Freeze, Space
from supernet.spaces import DEFAULT_SPACE, SPACES, get_space

if TYPE_CHECKING:
    from predictors.learned import LearnedPredictor
    from predictors.subnets import SubnetPredictor
    from predictors.two_levels import TwoLevelPredictor

IN_RUNS = ("model.safetensors", "evaluations.jsonl")  # of supernet.train, of a search


@dataclass(frozen=True)
class Asked:
    """What flags ask of networks that a file is of; None: as the file has it."""

    task: Task
    dataset: str | None
    space: str | None
    num_classes: int | None


def choose_accuracy(
    options: SearchOptions, task: Task, tables: Sequence[Table]
) -> tuple[AccuracySource, Space]:
    """Return the source and the space that a search is asked for; by default what was measured.

    `tables` are those of the devices.

    Raises UserError where they contradict each other, cannot be found, or where what is named is
    of another task, data set or space.
    """
    check_evaluate(options)
    if options.accuracy == PUBLISHED:
        return _published(options, task, tables)
    path = accuracy_file(options.accuracy)
    asked = Asked(task, options.dataset, options.space, options.num_classes)
    if path.suffix == CHECKPOINT:
        evaluated = open_checkpoint(path, options.evaluation)
        check_asked(asked, path, evaluated.dataset, evaluated.space)
        return evaluated, evaluated.space.freeze(options.freeze)
    predictor = load_subnets(path, options.space, options.accuracy_model, options.trained)
    check_asked(asked, path, predictor.dataset, predictor.space)
    return PredictedAccuracy(predictor), predictor.space.freeze(options.freeze)


def _published(
    options: SearchOptions, task: Task, tables: Sequence[Table]
) -> tuple[AccuracySource, Space]:
    dataset = dataset_of(task, options.dataset)
    name, frozen, classes = options.space, options.freeze, options.num_classes
    if name is None and (measured := _measured_for(tables, task, dataset)):
        asked = {freeze.dimension for freeze in map(Freeze.parse, frozen)}
        own = measured.freeze or []
        kept = (text for text in own if Freeze.parse(text).dimension not in asked)
        name, frozen = measured.space, (*kept, *frozen)
        classes = classes or measured.num_classes
    space = get_space(
        name or DEFAULT_SPACE, task=task, dataset=dataset, freeze=frozen, num_classes=classes
    )
    return PredictedAccuracy(published(dataset, classes)), judged_space(space, frozen)


def _measured_for(tables: Sequence[Table], task: Task, dataset: str) -> SpaceFlags | None:
    """Return the flags that tables were measured for. Raises SearchError where they differ."""
    all_flags = [flags for table in tables if (flags := _measured(table, task, dataset))]
    for flags in all_flags[1:]:
        if flags != all_flags[0]:
            raise SearchError(
                "the devices' tables were measured for different networks, of spaces "
                f"{all_flags[0].space} and {flags.space}; choose one by --space"
            )
    return all_flags[0] if all_flags else None


def _measured(table: Table, task: Task, dataset: str) -> SpaceFlags | None:
    """Return the flags of `lut.build` that a table was measured for, if it was for this task."""
    flags = table.sidecar.space_flags
    if flags is None or flags.task != task or flags.space not in SPACES:
        return None
    if dataset != (flags.dataset or dataset_of(task, None)):
        return None
    return flags


def load_subnets(
    path: Path, name: str | None = None, model: str = FITTED, trained: Path | None = None
) -> "SubnetPredictor | LearnedPredictor | TwoLevelPredictor":
    """Return a predictor of subnets, from a fitted model or fitted to a file of evaluated ones.

    Args:
        name: of the space that evaluated subnets are of; by default the smallest.
        model: what is fitted: auto, gp, trees or mean of `predictors.fit`, or ridge, which is of
            choices alone.
        trained: a file of networks trained alone, whose accuracy is then predicted instead.

    Raises PredictorError where a file is none, or holds too few or those of another space.
    """
    predictor = load_first_level(path, name, model)
    if trained is None:
        return predictor
    from predictors.two_levels import fit_two_levels

    return fit_two_levels(predictor, trained)


def load_first_level(
    path: Path, name: str | None, model: str
) -> "SubnetPredictor | LearnedPredictor":
    """Return what `load_subnets` does without `trained`."""
    check_choice("accuracy model", model, ACCURACY_MODELS, PredictorError)
    if path.suffix == MODEL:
        from predictors.learned import read_learned  # numpy takes time to load

        if model != FITTED:
            raise PredictorError(f"{path} is fitted; leave --accuracy-model out")
        return read_learned(path)
    evaluations = read_evaluations(path)
    space = space_of_subnets(evaluations, name)
    if model == PLAIN:
        from predictors.subnets import fit_subnets

        return fit_subnets(evaluations, space)
    from predictors.learned import fit_learned

    return fit_learned(evaluations, space, model=model)


def check_evaluate(options: SearchOptions) -> None:
    """Raise SearchError where `--accuracy`, `--evaluate` and their flags do not go together."""
    check_choice("evaluate", options.evaluate, EVALUATED_BY, SearchError)
    source = options.accuracy
    is_checkpoint = Path(source).suffix == CHECKPOINT
    is_evaluated = options.evaluate == SUPERNET
    search = f"python -m nas.search --device {options.device[0]} --accuracy"
    if is_evaluated and not is_checkpoint:
        raise SearchError(
            "--evaluate supernet evaluates every trial on a supernet's checkpoint; name it: "
            f"`{search} CHECKPOINT{CHECKPOINT} --evaluate supernet`"
        )
    if is_checkpoint and not is_evaluated:
        raise SearchError(
            f"{source} is a checkpoint, on which every trial must be evaluated: `{search} "
            f"{source} --evaluate supernet`; or evaluate some subnets into a FILE.jsonl by "
            f"`python -m supernet.evaluate` and predict from those: `{search} FILE.jsonl`"
        )
    if options.accuracy_model != FITTED and (source == PUBLISHED or is_checkpoint):
        raise SearchError(
            "--accuracy-model tells what is fitted to --accuracy FILE.jsonl; leave it out"
        )
    check_trained(source, options.trained)
    if not is_evaluated and options.evaluation_flags:
        flag = next(iter(options.evaluation_flags))
        raise SearchError(f"{flag} goes with --evaluate supernet; leave it out")
    if is_evaluated and options.max_accuracy_std is not None:
        raise SearchError(
            "--max-accuracy-std limits predictions, and --evaluate supernet evaluates; leave it out"
        )


def check_trained(source: str, trained: Path | None) -> None:
    """Raise SearchError or PredictorError where `--trained` is no file, or goes with no subnets."""
    if trained is None:
        return
    if source == PUBLISHED or Path(source).suffix == CHECKPOINT:
        raise SearchError(
            "--trained tells what accuracies of subnets are worth in training alone; name subnets "
            f"that were evaluated, by --accuracy FILE.jsonl or MODEL{MODEL}, or leave it out"
        )
    if not trained.is_file():
        raise PredictorError(
            f"no file {trained} of networks trained alone; write it by `python -m "
            f"supernet.evaluate --weights TRAINED{CHECKPOINT} --out {trained}` for each"
        )


def accuracy_file(source: str) -> Path:
    """Return `--accuracy` as a file. Raises PredictorError if there is none."""
    path = Path(source)
    if path.is_dir():
        inside = [path / name for name in IN_RUNS if (path / name).is_file()]
        cure = f"give {inside[0]}" if inside else "give a file"
        raise PredictorError(f"--accuracy {source} is a folder; {cure}")
    if not path.is_file():
        hint = nearest(source, [PUBLISHED]) if not path.suffix else ""
        raise PredictorError(
            f"no file {source!r} to take accuracies from{hint}; --accuracy takes published, a "
            f"FILE.jsonl of supernet.evaluate, a MODEL{MODEL} of predictors.fit, or a "
            f"CHECKPOINT{CHECKPOINT} with --evaluate supernet"
        )
    return path


def subnets_file(source: str) -> Path:
    """Return `--accuracy` as a file to predict from.

    Raises PredictorError if there is none, and for a checkpoint.
    """
    path = accuracy_file(source)
    if path.suffix == CHECKPOINT:
        raise PredictorError(
            f"{source} is a checkpoint; evaluate subnets of it and give that file: python -m "
            f"supernet.evaluate --weights {shlex.quote(source)} --sample 100 --out subnets.jsonl"
        )
    return path


def check_asked(asked: Asked, path: Path, dataset: str, space: Space) -> None:
    """Raise ArchError or SearchError where flags ask for something else than a file is of."""
    spec = space.spec
    own = spec.task if spec else asked.task
    if own == "pretrain":
        raise ArchError(
            f"{path} was pre-trained and performs no task; train it on one by `python -m "
            f"supernet.train --init {path}`"
        )
    if own != asked.task:
        raise ArchError(f"{path} is of {own}, not {asked.task}; give --task {own}")
    for flag, value, known in (
        ("dataset", asked.dataset, (dataset, space.dataset)),
        ("space", asked.space, (space.name,)),
        ("num-classes", asked.num_classes, (spec.num_classes if spec else None,)),
    ):
        if value is not None and value not in known:
            raise SearchError(f"{path} is of --{flag} {known[0]}, not {value}; leave --{flag} out")
