"""What the options of a training leave open, told by its data, space, network or earlier steps."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from results.errors import ArchError, DataError, UserError, WeightsError, check_choice
from supernet.arch import (
    Arch,
    Family,
    PromptableHead,
    ReconstructionHead,
    SegmentationHead,
    SuperResolutionHead,
    format_resolution,
    parse_resolution,
)
from supernet.official import DATASETS, ENLARGED, known_name, with_head
from supernet.resolve import resolve_arch
from supernet.sharing.checkpoint import arch_told
from supernet.sharing.extremes import largest_of, smallest_of
from supernet.space import Freeze, Space
from supernet.spaces import get_space
from supernet.tasks.choose import training_task
from supernet.tasks.class_order import AS_TRAINED, check_order
from supernet.tasks.class_order import listed as quoted
from supernet.tasks.draw import EMBEDDED, PLAIN, Augment
from supernet.tasks.labelled_pictures import layout_of
from supernet.tasks.look import sides_for, typical_size
from supernet.tasks.options import TaskOptions
from supernet.tasks.task import Task
from supernet.training.options import ResolvedOptions, TrainingOptions
from supernet.training.sandwich import Resolution
from supernet.training.trainer import Recipe
from supernet.weights.files import read_weights
from supernet.weights.fitting import StoredWeights
from supernet.weights.header import WeightsHeader, as_text

AUGMENTS = {"official": Augment(), "embedded": EMBEDDED, "plain": PLAIN}
ERASING = {"b": 0.0, "l": 0.2}  # share of pictures, official
OF_CLASSES = ("classification", "segmentation")  # tasks that --alpha is of
EPOCHS = 20  # by default


@dataclass(frozen=True)
class TrainingPlan:
    """A training with all that its options leave open."""

    given: TrainingOptions  # for run.json alone, which a resumed run is compared with
    options: ResolvedOptions
    task: Task
    space: Space | None  # all of whose subnets are trained; None: `arch` alone is
    arch: Arch | None
    init: StoredWeights | None = None  # of a run that goes on they are not read
    teacher: StoredWeights | None = None
    notes: tuple[str, ...] = ()  # what was taken from the data or other files, a line each

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """Return the sizes that steps are drawn from; (): the space's or arch's."""
        return tuple(map(parse_resolution, self.options.resolution))

    @property
    def recipe(self) -> Recipe:
        """Return how the weights are trained."""
        options = self.options
        return Recipe(
            num_steps=options.steps,
            lr=options.lr,
            weight_decay=options.weight_decay,
            warmup=options.warmup,
            clip=options.clip or None,
            accumulate=options.accumulate,
            alpha=options.alpha,
            ema=options.ema,
            precision=options.precision,
            compile=options.compile,
            seed=options.seed,
        )

    @property
    def evaluated_subnets(self) -> dict[str, Arch]:
        """Return the archs that are evaluated by name, at the largest and smallest size of all."""
        if self.arch is not None:
            most = max(self.resolutions, default=self.arch.resolution)
            return {"arch": replace(self.arch, resolution=most)}
        assert self.space is not None
        subnets = {}
        ends = (("largest", largest_of, max), ("smallest", smallest_of, min))
        for name, archs_of, pick in ends:
            for part, arch in zip(self.space.parts, archs_of(self.space), strict=True):
                several = len(self.space.parts) > 1
                size = pick(self.resolutions) if self.resolutions else arch.resolution
                label = f"{name} {part.name}" if several else name
                subnets[label] = replace(arch, resolution=size)
        return subnets


@dataclass(frozen=True)
class Begun:
    """What run.json recorded at the start, as files and pictures may have changed since."""

    arch: Arch | None  # the one network that is trained
    classes: tuple[str, ...]  # () where the run is older, or they have no names
    num_classes: int | None  # of the data or network; None: there are none
    resolutions: tuple[Resolution, ...] | None  # (): the space's; None: the run is older


def plan_training(options: TrainingOptions, begun: Begun | None = None) -> TrainingPlan:
    """Return what is trained, on what and how.

    `begun`: with what a run was that goes on, whatever files and pictures are by now.

    Raises UserError for options that do not go together, and for data that cannot be read.
    """
    options = options.with_defaults()
    recorded = begun.arch if begun else None
    # its head may become another one, for the data
    given_arch = recorded or (resolve_arch(options.arch) if options.arch else None)
    task_name = options.task or (given_arch.task if given_arch else "classification")
    if begun is None:  # an older run is told --class-order text
        check_order(options.class_order, task_name, options.data)
    teacher = read_weights(options.teacher) if options.teacher else None
    _check_together(options, task_name, teacher)
    # of a run that goes on it is not asked again, and may be gone
    init = read_weights(options.init) if options.init and begun is None else None
    task, notes = _task(options, task_name, given_arch, begun, init, teacher)
    sizes = tuple(dict.fromkeys(map(parse_resolution, options.resolution)))
    if not sizes and begun is not None and begun.resolutions is not None:
        sizes = begun.resolutions
    elif not sizes and begun is None:
        sizes, size_notes = _sizes_of(options, task)
        notes += size_notes
    arch = space = None
    if given_arch is not None:
        arch = recorded or _arch(options, task_name, given_arch, task)
        if isinstance(arch.head, PromptableHead) and sizes:
            if len(sizes) > 1:
                raise UserError("a promptable network is of one size; give one --resolution")
            arch = replace(arch, resolution=sizes[0])
    else:
        space = _space(options, task_name, task)
        if not sizes and options.data is None and task_name == "segmentation":
            assert options.space is not None
            sizes = tuple(get_space(options.space).resolutions)  # pictures are made at any size
    return TrainingPlan(
        given=options,
        options=_resolved(options, task, sizes),
        task=task,
        space=space,
        arch=arch,
        init=init,
        teacher=teacher,
        notes=notes,
    )


def _check_together(
    options: TrainingOptions, task_name: str, teacher: StoredWeights | None
) -> None:
    """Raise UserError for options that the task `task_name` does not have."""
    heads = DATASETS.get(task_name, ())  # type: ignore[call-overload]
    if options.dataset is not None and heads and options.dataset not in heads:
        listed = ", ".join(heads)
        raise DataError(f"{options.dataset} is no data set for {task_name} (choose from {listed})")
    if options.alpha is not None and task_name not in OF_CLASSES:
        raise UserError(f"--alpha is of classes, and {task_name} has none; leave it out")
    if teacher is not None and teacher.header.kind == "supernet":
        raise WeightsError(
            f"{teacher.path} is a supernet; extract the teacher from it first by python -m "
            f"supernet.extract --weights {shlex.quote(str(teacher.path))} --arch RUN#ID "
            "--out teacher.safetensors"
        )


def _resolved(
    options: TrainingOptions, task: Task, sizes: tuple[Resolution, ...]
) -> ResolvedOptions:
    """Return options that have their defaults, with all that was worked out for them."""
    own = {field.name: getattr(options, field.name) for field in fields(TrainingOptions)}
    epochs = options.epochs or EPOCHS
    steps = options.steps or -(-epochs * task.num_train // options.batch_size)
    own |= {
        "task": task.name,
        "dataset": task.dataset,
        "num_classes": task.num_classes,
        "resolution": tuple(map(format_resolution, sizes)),
        "augment": _augment_name(options),
        "epochs": None,
        "steps": steps,
        "warmup": min(steps // 20 if options.warmup is None else options.warmup, steps),
        "random_subnets": options.random_subnets or 0,
        "recalibration_images": options.recalibration_images or 0,
    }
    return ResolvedOptions(**own)


def _space(options: TrainingOptions, task_name: str, task: Task) -> Space:
    assert options.space is not None
    return get_space(
        options.space,
        task=task_name,  # type: ignore[arg-type]
        dataset=options.dataset,
        freeze=options.freeze,
        num_classes=task.num_classes,
    )


def _task(
    options: TrainingOptions,
    task_name: str,
    given_arch: Arch | None,
    begun: Begun | None,
    init: StoredWeights | None,
    teacher: StoredWeights | None,
) -> tuple[Task, tuple[str, ...]]:
    """Return the task, its classes in the order of the weights that it begins or learns with."""
    num_classes, notes = _num_classes(
        options, task_name, given_arch, begun, init.header if init else None
    )
    asked = TaskOptions(
        task_name,
        data=options.data,
        dataset=options.dataset if options.data and task_name == "segmentation" else None,
        num_classes=num_classes,
        seed=options.seed,
        num_train=options.num_train,
        augment=_augment(options, given_arch),
        scale=_scale(given_arch, options.dataset) if task_name == "super_resolution" else 2,
        teacher=teacher if task_name == "promptable" else None,
        class_order=options.class_order,
    )
    if begun is not None and begun.classes:
        return training_task(replace(asked, classes=begun.classes)), notes
    task = training_task(asked)
    if (
        begun is None
        and options.data
        and options.class_order is None
        and task_name == "classification"
    ):
        for weights in filter(None, (init, teacher)):
            arch = arch_told(weights.header)
            of_classes = arch and getattr(arch.head, "num_classes", None)
            as_trained = weights.header.folder_order(None) == AS_TRAINED
            if of_classes == task.num_classes and as_trained:
                task = training_task(replace(asked, class_order=AS_TRAINED))
    known = init.header.classes if init else ()
    if known and _same(known, task.classes) and known != tuple(map(as_text, task.classes)):
        task = training_task(replace(asked, classes=known))
        notes += (f"classes are in the order that {options.init} has them in",)
    if teacher is None or task_name not in OF_CLASSES:
        return task, notes
    taught = teacher.header.classes
    if taught and task.classes and taught != tuple(map(as_text, task.classes)):
        if (known and _same(known, task.classes)) or not _same(taught, task.classes):
            raise WeightsError(
                f"{options.teacher} knows the classes {quoted(taught)}, and those to learn are "
                f"{quoted(task.classes)}; give a teacher of the same classes in the same order"
            )
        task = training_task(replace(asked, classes=taught))
        notes += (f"classes are in the order that {options.teacher} has them in",)
    return task, notes


def _same(names: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether both have the same names, in whatever order."""
    return sorted(names) == sorted(map(as_text, others))


def _num_classes(
    options: TrainingOptions,
    task_name: str,
    given_arch: Arch | None,
    begun: Begun | None,
    init: WeightsHeader | None,
) -> tuple[int | None, tuple[str, ...]]:
    """Return the number that was asked for, else where data do not tell that of first weights."""
    asked = options.num_classes
    if asked is not None or task_name != "segmentation" or options.data is None:
        return asked, ()
    if layout_of(options.data) != "folder":
        return None, ()
    if begun is not None:  # what it was taken from may be gone by now
        return begun.num_classes, ()
    if (
        given_arch is not None
        and not _is_named(options)
        and isinstance(given_arch.head, SegmentationHead)
    ):
        return given_arch.head.num_classes, (
            f"{given_arch.head.num_classes} classes, as {options.arch} has",
        )
    arch = arch_told(init) if init else None
    if arch is None or not isinstance(arch.head, SegmentationHead):
        return None, ()
    return arch.head.num_classes, (f"{arch.head.num_classes} classes, as {options.init} has",)


def _is_named(options: TrainingOptions) -> bool:
    """Return whether --arch names an official network, whose head and size are not the data's."""
    return options.arch is not None and known_name(options.arch) is not None


def _sizes_of(
    options: TrainingOptions, task: Task
) -> tuple[tuple[Resolution, ...], tuple[str, ...]]:
    """Return sizes where only the pictures tell, (): the space's or arch's; and a line of them."""
    asked = any(Freeze.parse(text).dimension == "resolution" for text in options.freeze)
    if options.data is None or asked or (options.arch and not _is_named(options)):
        return (), ()
    if task.name != "segmentation" or layout_of(options.data) != "folder":
        return (), ()
    size = typical_size(task.source.files_trained_on())
    sides = sides_for(size)[-1:] if options.arch else sides_for(size)
    return tuple((side, side) for side in sides), (
        f"pictures of {options.data} are about {size[0]}x{size[1]} px, and are trained at "
        f"{', '.join(map(str, sides))} px; --resolution gives other sizes",
    )


def _augment_name(options: TrainingOptions) -> str:
    """Return which of AUGMENTS the training pictures get."""
    return options.augment or ("official" if options.data else "embedded")


def _augment(options: TrainingOptions, given_arch: Arch | None) -> Augment:
    """Return what --augment names; the official one is that of the family."""
    name = _augment_name(options)
    if name != "official":
        return AUGMENTS[name]
    assert given_arch is not None or options.space is not None
    families: set[Family] = (
        {given_arch.family}
        if given_arch
        else {part.family for part in get_space(options.space or "").parts}
    )
    return replace(AUGMENTS[name], erasing=min(ERASING[family] for family in families))


def _scale(given_arch: Arch | None, dataset: str | None) -> int:
    """Return how often a side is enlarged: as the arch does, else by the space's x2 or x4."""
    if given_arch is not None and isinstance(given_arch.head, SuperResolutionHead):
        return given_arch.head.scale
    name = dataset or ENLARGED[0]
    check_choice("dataset", name, ENLARGED, DataError)
    return int(name.removeprefix("x"))


def _arch(options: TrainingOptions, task_name: str, given_arch: Arch, task: Task) -> Arch:
    """Return the one network, with a head for the task and the data's number of classes."""
    if task_name == "pretrain":
        return with_head(given_arch, ReconstructionHead())
    assert options.arch is not None
    other = task_name != given_arch.task
    arch = resolve_arch(
        options.arch,
        task=task_name if other else None,  # type: ignore[arg-type]
        dataset=options.dataset,
        num_classes=task.num_classes if task_name != "super_resolution" else None,
    )
    if arch.task != task_name:
        raise ArchError(f"--arch {options.arch} does {arch.task}, not {task_name}")
    return arch
