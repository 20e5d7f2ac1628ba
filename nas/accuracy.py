"""`--accuracy` and `--objective`: where a search's accuracies come from, and in which space.

published: the scaling law on published figures. FILE.jsonl: a predictor fitted on evaluated
subnets. CHECKPOINT.safetensors with `--objective supernet`: every trial is evaluated on it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from predictors.accuracy import AccuracyPrediction, published
from results.errors import (
    ArchError,
    PredictorError,
    SearchError,
    SpaceError,
    check_choice,
    nearest,
)
from supernet.arch import Arch, Task, format_resolution
from supernet.official import DATASETS, dataset_of
from supernet.space import Freeze, Space
from supernet.spaces import SPACES, get_space

if TYPE_CHECKING:
    from lut.sidecar import SpaceFlags
    from lut.table import Table
    from nas.predict import Predict
    from nas.search import SearchCommand
    from predictors.evaluations import Evaluations
    from predictors.subnets import SubnetPredictor

PUBLISHED, CHECKPOINT = "published", ".safetensors"
OBJECTIVES = ("predicted", "supernet")
# Flags that only an evaluation reads.
OF_SUPERNET = ("data", "limit", "recalibration_images", "accelerator")
IN_RUNS = ("model.safetensors", "evaluations.jsonl")  # of supernet.train, of a search
DEFAULT_SPACE = "family"


class AccuracySource(Protocol):
    """Predicts or evaluates, and tells where its numbers come from."""

    @property
    def provenance(self) -> str: ...  # published, supernet
    @property
    def metric(self) -> str: ...  # what the accuracy is, with its unit

    def predict(self, arch: Arch) -> AccuracyPrediction: ...
    def describe(self) -> str:
        """One line: provenance and error."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """For run.json."""
        ...


@dataclass(frozen=True)
class NoAccuracy:
    """For questions that no accuracy is asked for, where asking costs seconds."""

    def predict(self, arch: Arch) -> AccuracyPrediction:
        return AccuracyPrediction(0.0, 0.0)


def choose_accuracy(
    command: "SearchCommand", task: Task, table: "Table"
) -> tuple[AccuracySource, Space]:
    """The source and the space that a search's flags name; by default what was measured.

    Raises UserError where they name none, contradict each other, or where what they name is of
    another task, data set or space.
    """
    check_objective(command)
    if command.accuracy == PUBLISHED:
        dataset = dataset_of(task, command.dataset)
        name, frozen, classes = command.space, command.freeze, command.num_classes
        if name is None and (measured := _measured(table, task, dataset)):
            asked = {freeze.dimension for freeze in map(Freeze.parse, frozen)}
            own = measured.freeze or []
            kept = (text for text in own if Freeze.parse(text).dimension not in asked)
            name, frozen = measured.space, (*kept, *frozen)
            classes = classes or measured.num_classes
        space = get_space(
            name or DEFAULT_SPACE, task=task, dataset=dataset, freeze=frozen, num_classes=classes
        )
        return published(dataset, classes), space.fixed_as_published(frozen)
    path = existing(command.accuracy)
    if path.suffix == CHECKPOINT:
        from nas.supernet_accuracy import SupernetAccuracy

        evaluated = SupernetAccuracy.of(command, path)
        check_asked(command, task, path, evaluated.dataset, evaluated.space)
        return evaluated, evaluated.space.freeze(command.freeze)
    predictor = load_subnets(path, command.space)
    check_asked(command, task, path, predictor.evaluations.dataset, predictor.space)
    return predictor, predictor.space.freeze(command.freeze)


def _measured(table: "Table", task: Task, dataset: str) -> "SpaceFlags | None":
    """The flags of `lut.build` that a table was measured for, if it was for this task."""
    flags = table.sidecar.space_flags
    if flags is None or flags.task != task or flags.space not in SPACES:
        return None
    if dataset != (flags.dataset or dataset_of(task, None)):
        return None
    return flags


def load_subnets(path: Path, name: str | None = None) -> "SubnetPredictor":
    """A predictor fitted on a file of evaluated subnets, of space `name` or of their own.

    Raises PredictorError where the file is none, or holds too few or those of another space.
    """
    from predictors.evaluations import read_evaluations
    from predictors.subnets import fit_subnets

    evaluations = read_evaluations(path)
    return fit_subnets(evaluations, space_of(evaluations, name))


def space_of(evaluations: "Evaluations", name: str | None = None) -> Space:
    """The smallest space that all evaluated subnets are in; of space `name`, the nearest to it.

    At their resolutions alone: a supernet may be trained at others, or at fewer.

    Raises PredictorError where there is none, SpaceError for an unknown name.
    """
    if name is not None:
        check_choice("space", name, SPACES, SpaceError)
    task, archs = evaluations.task, evaluations.archs
    num_classes = getattr(archs[0].head, "num_classes", None)
    sizes = sorted({arch.resolution for arch in archs})
    only = f"resolution={','.join(map(format_resolution, sizes))}"
    found: list[Space] = []
    for dataset in sorted(DATASETS[task], key=lambda name: name != evaluations.dataset):
        for choice in [name] if name else ("tiny", "b", "l", "family", "all"):
            for nearest_head in (True, False) if task == "classification" else (True,):
                try:
                    space = get_space(
                        choice,
                        task=task,
                        dataset=dataset,
                        nearest_head=nearest_head,
                        num_classes=num_classes,
                    )
                except SpaceError:  # no network for the task
                    continue
                if all(arch in space for arch in archs):
                    return space if len(sizes) == len(space.resolutions) else space.freeze([only])
                if all(arch in (fits := space.at_resolutions(sizes)) for arch in archs):
                    return fits
                found.append(space)
    if name is not None and found:
        return found[0]  # whoever fits names the line that is outside
    raise PredictorError(
        f"no space holds all {len(archs)} subnets of {evaluations.path}; search the one that "
        "they were drawn from, named by --space"
    )


def check_objective(command: "SearchCommand") -> None:
    """Raises SearchError where `--accuracy`, `--objective` and their flags do not go together."""
    check_choice("objective", command.objective, OBJECTIVES, SearchError)
    source = command.accuracy
    is_checkpoint = Path(source).suffix == CHECKPOINT
    search = f"python -m nas.search --device {command.device[0]} --accuracy"
    if command.objective == "supernet" and not is_checkpoint:
        raise SearchError(
            "--objective supernet evaluates every trial on a supernet's checkpoint; name it: "
            f"`{search} CHECKPOINT{CHECKPOINT} --objective supernet`"
        )
    if command.objective != "supernet" and is_checkpoint:
        raise SearchError(
            f"{source} is a checkpoint, on which every trial must be evaluated: `{search} "
            f"{source} --objective supernet`; or evaluate some subnets into a FILE.jsonl by "
            f"`python -m supernet.evaluate` and predict from those: `{search} FILE.jsonl`"
        )
    for name in OF_SUPERNET:
        if command.objective != "supernet" and getattr(command, name) is not None:
            flag = name.replace("_", "-")
            raise SearchError(f"--{flag} goes with --objective supernet; leave it out")
    if command.objective == "supernet" and command.max_accuracy_std is not None:
        raise SearchError(
            "--max-accuracy-std limits predictions, and --objective supernet evaluates; leave it "
            "out"
        )


def existing(source: str) -> Path:
    """`--accuracy` as a file. Raises PredictorError if there is none."""
    path = Path(source)
    if path.is_dir():
        inside = [path / name for name in IN_RUNS if (path / name).is_file()]
        cure = f"give {inside[0]}" if inside else "give a file"
        raise PredictorError(f"--accuracy {source} is a folder; {cure}")
    if not path.is_file():
        hint = nearest(source, [PUBLISHED]) if not path.suffix else ""
        raise PredictorError(
            f"no file {source!r} to take accuracies from{hint}; --accuracy takes published, a "
            f"FILE.jsonl of supernet.evaluate, or a CHECKPOINT{CHECKPOINT} with --objective "
            "supernet"
        )
    return path


def check_asked(
    command: "SearchCommand | Predict", task: Task, path: Path, dataset: str, space: Space
) -> None:
    """Raises ArchError or SearchError where a flag asks for something else than a file is of."""
    spec = space.spec
    own = spec.task if spec else task
    if own == "pretrain":
        raise ArchError(
            f"{path} was pre-trained and performs no task; train it on one by `python -m "
            f"supernet.train --init {path}`"
        )
    if own != task:
        raise ArchError(f"{path} is of {own}, not {task}; give --task {own}")
    for flag, asked, known in (
        ("dataset", command.dataset, (dataset, space.dataset)),
        ("space", command.space, (space.name,)),
        ("num-classes", command.num_classes, (spec.num_classes if spec else None,)),
    ):
        if asked is not None and asked not in known:
            raise SearchError(f"{path} is of --{flag} {known[0]}, not {asked}; leave --{flag} out")
