"""What the flags of a training name, looked up: task, networks, first weights, teacher."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from results.errors import ArchError, DataError, UserError, WeightsError, check_choice
from supernet.arch import (
    Arch,
    Family,
    PromptableHead,
    ReconstructionHead,
    SegmentationHead,
    SuperResolutionHead,
    parse_resolution,
)
from supernet.evaluation.recalibrated import order_of
from supernet.layers.initialise import initialise_weights
from supernet.model import build_task_model
from supernet.official import DATASETS, ENLARGED, known_name, with_head
from supernet.resolve import arch_in_space, resolve_arch
from supernet.sam.model import Sam
from supernet.sharing.checkpoint import init_from, is_supernet, open_supernet, space_in
from supernet.sharing.extremes import largest_of, smallest_of
from supernet.sharing.supernet import Supernet, is_transform
from supernet.space import Freeze, Space
from supernet.spaces import get_space
from supernet.tasks.class_order import AS_TRAINED, check_order
from supernet.tasks.class_order import listed as quoted
from supernet.tasks.look import sides_for, typical_size
from supernet.tasks.segmentation import layout_of
from supernet.tasks.task import EMBEDDED, PLAIN, Augment, TrainingTask, training_task
from supernet.training.attentive import read_costs
from supernet.training.batches import seed_of
from supernet.training.sandwich import OneArch, Resolution, Sampler, SandwichRule
from supernet.training.sources import Begun
from supernet.training.trainer import Alone
from supernet.weights.files import arch_in, is_promptable, load_network, load_weights, set_norm_eps
from supernet.weights.header import as_text, classes_in

if TYPE_CHECKING:
    from supernet.train import Train

AUGMENTS = {"official": Augment(), "embedded": EMBEDDED, "plain": PLAIN}
ERASING = {"b": 0.0, "l": 0.2}  # share of pictures, official
OF_CLASSES = ("classification", "segmentation")  # tasks that --alpha is of


@dataclass(frozen=True)
class Ingredients:
    """A training's task and networks: all subnets of a space, or one Arch."""

    task: TrainingTask
    space: Space | None
    arch: Arch | None
    resolutions: tuple[Resolution, ...]  # that steps are drawn from; (): the space's or arch's
    notes: tuple[str, ...] = ()  # what was taken from the data or other files, a line each

    @property
    def subnets(self) -> dict[str, Arch]:
        """What is evaluated, by a name for it; at the largest and smallest size trained at."""
        if self.arch is not None:
            most = max(self.resolutions, default=self.arch.resolution)
            return {"arch": replace(self.arch, resolution=most)}
        assert self.space is not None
        found = {}
        ends = (("largest", largest_of, max), ("smallest", smallest_of, min))
        for name, archs_of, pick in ends:
            for part, arch in zip(self.space.parts, archs_of(self.space), strict=True):
                several = len(self.space.parts) > 1
                size = pick(self.resolutions) if self.resolutions else arch.resolution
                label = f"{name} {part.name}" if several else name
                found[label] = replace(arch, resolution=size)
        return found

    def sampler(
        self, command: "Train", num_steps: int, *, tell: Callable[[str], object] | None = None
    ) -> Sampler:
        """Return what draws the networks of each step.

        `tell` is given what was assumed of --costs. Raises TableError where they cannot be read.
        """
        if self.arch is not None:
            return OneArch(self.arch, command.seed, self.resolutions)
        assert self.space is not None
        assert command.random_subnets is not None
        return SandwichRule(
            self.space,
            command.random_subnets,
            command.seed,
            num_steps,
            resolutions=self.resolutions,
            costs=read_costs(command.costs, self.space, tell=tell) if command.costs else None,
            shrink=command.shrink,
        )

    def model(self, command: "Train", *, initialise: bool) -> Supernet | Alone:
        """New weights, the same in every process; of --init where `initialise`.

        Raises WeightsError or SpaceError where --init does not fit.
        """
        torch.manual_seed(seed_of(command.seed, "weights"))
        init = command.init if initialise else None
        model = self._new(command)
        if isinstance(model, Supernet):
            supernet = model
            initialise_weights(supernet.nets)
            if init is not None and is_supernet(init):
                _copy_body(open_supernet(init), supernet, init)
            elif init is not None:
                init_from(supernet, init)
            return supernet
        assert self.arch is not None
        network = model.network
        encoder = network.image_encoder if isinstance(network, Sam) else network
        initialise_weights(encoder)
        if init is not None and is_supernet(init):
            opened = open_supernet(init)
            source = opened.extract(arch_in_space(opened.space, self.arch))
            _copy_body(source, network if isinstance(source, Sam) else encoder, init)
        elif init is not None:
            alone = isinstance(network, Sam) and not is_promptable(init)
            load_weights(encoder if alone else network, init, partial=True)
            if alone:  # one epsilon for encoder and decoder
                set_norm_eps(encoder, self.arch.norm_eps)
        return model

    def shapes(self, command: "Train") -> dict[str, Tensor]:
        """Return the tensors of the model by name, without memory: a run that somebody sent may
        ask for more than its weights are."""
        with torch.device("meta"):
            return dict(self._new(command).state_dict())

    def _new(self, command: "Train") -> Supernet | Alone:
        if self.space is not None:
            return Supernet(self.space, kernel_transform=command.kernel_transform)
        assert self.arch is not None
        return Alone(build_task_model(self.arch))

    def teacher(self, command: "Train") -> nn.Module | None:
        """The network of --teacher. Raises WeightsError; promptable tasks have their own."""
        if command.teacher is None or self.task.name == "promptable":
            return None
        arch = arch_in(command.teacher)
        if arch is None:
            raise WeightsError(
                f"{command.teacher} does not tell its architecture; evaluate it by "
                "supernet.evaluate and save it by supernet.weights.files.save_weights"
            )
        trained = self.arch or next(iter(self.subnets.values()))
        if type(arch.head) is not type(trained.head) or _gives(arch) != _gives(trained):
            raise WeightsError(
                f"{command.teacher} is a network for {_gives(arch)}, and {_gives(trained)} is "
                "trained"
            )
        return load_network(arch, command.teacher).requires_grad_(False)


def gather(command: "Train", begun: Begun | None = None) -> Ingredients:
    """`begun`: with what a run was that goes on, whatever files and pictures are by now.

    Raises UserError for flags that do not go together, and for data that cannot be read.
    """
    recorded = begun.arch if begun else None
    own = recorded or (resolve_arch(command.arch) if command.arch else None)
    name = command.task or (own.task if own else "classification")
    if begun is None:  # an older run is told --class-order text
        check_order(command.class_order, name, command.data)
    heads = DATASETS.get(name, ())  # type: ignore[call-overload]
    if command.dataset is not None and heads and command.dataset not in heads:
        listed = ", ".join(heads)
        raise DataError(f"{command.dataset} is no data set for {name} (choose from {listed})")
    if command.alpha is not None and name not in OF_CLASSES:
        raise UserError(f"--alpha is of classes, and {name} has none; leave it out")
    if command.teacher is not None and is_supernet(command.teacher):
        raise WeightsError(
            f"{command.teacher} is a supernet; extract the teacher from it first by python -m "
            f"supernet.extract --weights {shlex.quote(str(command.teacher))} --arch RUN#ID "
            "--out teacher.safetensors"
        )
    task, notes = _task(command, name, own, begun)
    sizes = tuple(dict.fromkeys(map(parse_resolution, command.resolution)))
    if not sizes and begun is not None and begun.resolutions is not None:
        sizes = begun.resolutions
    elif not sizes and begun is None:
        sizes, said = _sizes_of(command, task)
        notes += said
    if own is not None:
        arch = recorded or _arch(command, name, own, task)
        if isinstance(arch.head, PromptableHead) and sizes:
            if len(sizes) > 1:
                raise UserError("a promptable network is of one size; give one --resolution")
            arch = replace(arch, resolution=sizes[0])
        return Ingredients(task, None, arch, sizes, notes)
    assert command.space is not None
    space = get_space(
        command.space,
        task=name,  # type: ignore[arg-type]
        dataset=command.dataset,
        freeze=command.freeze,
        num_classes=task.num_classes,
    )
    if not sizes and command.data is None and name == "segmentation":
        sizes = tuple(get_space(command.space).resolutions)  # pictures are made at any size
    return Ingredients(task, space, None, sizes, notes)


def _task(
    command: "Train", name: str, own: Arch | None, begun: Begun | None
) -> tuple[TrainingTask, tuple[str, ...]]:
    """The task, its classes in the order that the weights it begins or learns with have them."""
    num_classes, notes = _num_classes(command, name, own, begun)
    task = partial(
        training_task,
        name,
        data=command.data,
        dataset=command.dataset if command.data and name == "segmentation" else None,
        num_classes=num_classes,
        seed=command.seed,
        num_train=command.num_train,
        augment=_augment(command, own),
        scale=_scale(own, command.dataset) if name == "super_resolution" else 2,
        teacher=command.teacher if name == "promptable" else None,
        class_order=command.class_order,
    )
    if begun is not None and begun.classes:
        return task(classes=begun.classes), notes
    found = task()
    if begun is None and command.data and command.class_order is None and name == "classification":
        for path in filter(None, (command.init, command.teacher)):
            arch = _arch_of(path)
            of_classes = arch and getattr(arch.head, "num_classes", None)
            if of_classes == found.num_classes and order_of(path, None) == AS_TRAINED:
                found = task(class_order=AS_TRAINED)
    init = classes_in(command.init) if command.init and begun is None else ()
    if init and _same(init, found.classes) and init != tuple(map(as_text, found.classes)):
        found = task(classes=init)
        notes += (f"classes are in the order that {command.init} has them in",)
    if command.teacher is None or name not in OF_CLASSES:
        return found, notes
    taught = classes_in(command.teacher)
    if taught and found.classes and taught != tuple(map(as_text, found.classes)):
        if (init and _same(init, found.classes)) or not _same(taught, found.classes):
            raise WeightsError(
                f"{command.teacher} knows the classes {quoted(taught)}, and those to learn are "
                f"{quoted(found.classes)}; give a teacher of the same classes in the same order"
            )
        found = task(classes=taught)
        notes += (f"classes are in the order that {command.teacher} has them in",)
    return found, notes


def _same(names: Sequence[str], others: Sequence[str]) -> bool:
    """In whatever order."""
    return sorted(names) == sorted(map(as_text, others))


def _num_classes(
    command: "Train", name: str, own: Arch | None, begun: Begun | None
) -> tuple[int | None, tuple[str, ...]]:
    """Of --num-classes, or where the data do not tell, of the networks to begin with."""
    asked = command.num_classes
    if asked is not None or name != "segmentation" or command.data is None:
        return asked, ()
    if layout_of(command.data) != "folder":
        return None, ()
    if begun is not None:  # what it was taken from may be gone by now
        return begun.num_classes, ()
    if own is not None and not _is_named(command) and isinstance(own.head, SegmentationHead):
        return own.head.num_classes, (f"{own.head.num_classes} classes, as {command.arch} has",)
    if command.init is None:
        return None, ()
    arch = _arch_of(command.init)
    if arch is None or not isinstance(arch.head, SegmentationHead):
        return None, ()
    return arch.head.num_classes, (f"{arch.head.num_classes} classes, as {command.init} has",)


def _arch_of(weights: Path) -> Arch | None:
    """A network that weights are of, of a supernet its largest; None where they do not tell."""
    return largest_of(space_in(weights))[0] if is_supernet(weights) else arch_in(weights)


def _is_named(command: "Train") -> bool:
    """Whether --arch is the name of an official network, whose head and size are not the data's."""
    return command.arch is not None and known_name(command.arch) is not None


def _sizes_of(
    command: "Train", task: TrainingTask
) -> tuple[tuple[Resolution, ...], tuple[str, ...]]:
    """What to train at where only the pictures tell, (): the space's or arch's; and a line."""
    asked = any(Freeze.parse(text).dimension == "resolution" for text in command.freeze)
    if command.data is None or asked or (command.arch and not _is_named(command)):
        return (), ()
    if task.name != "segmentation" or layout_of(command.data) != "folder":
        return (), ()
    size = typical_size(task.files_trained_on())
    sides = sides_for(size)[-1:] if command.arch else sides_for(size)
    return tuple((side, side) for side in sides), (
        f"pictures of {command.data} are about {size[0]}x{size[1]} px, and are trained at "
        f"{', '.join(map(str, sides))} px; --resolution gives other sizes",
    )


def _augment(command: "Train", own: Arch | None) -> Augment:
    """Of --augment; the official one is that of the family."""
    name = command.augment or ("official" if command.data else "embedded")
    if name != "official":
        return AUGMENTS[name]
    assert own is not None or command.space is not None
    families: set[Family] = (
        {own.family} if own else {part.family for part in get_space(command.space or "").parts}
    )
    return replace(AUGMENTS[name], erasing=min(ERASING[family] for family in families))


def _scale(own: Arch | None, dataset: str | None) -> int:
    """Times that super-resolution enlarges a side: the arch's, or of the space's x2 or x4."""
    if own is not None and isinstance(own.head, SuperResolutionHead):
        return own.head.scale
    name = dataset or ENLARGED[0]
    check_choice("dataset", name, ENLARGED, DataError)
    return int(name.removeprefix("x"))


def _arch(command: "Train", name: str, own: Arch, task: TrainingTask) -> Arch:
    """The one network, with a head for the task and the data's number of classes."""
    if name == "pretrain":
        return with_head(own, ReconstructionHead())
    assert command.arch is not None
    other = name != own.task
    arch = resolve_arch(
        command.arch,
        task=name if other else None,  # type: ignore[arg-type]
        dataset=command.dataset,
        num_classes=task.num_classes if name != "super_resolution" else None,
    )
    if arch.task != name:
        raise ArchError(f"--arch {command.arch} does {arch.task}, not {name}")
    return arch


def _copy_body(source: nn.Module, target: nn.Module, path: Path) -> None:
    """All tensors of `source` that `target` has, but for those of a head of another shape.

    Raises WeightsError where a tensor of the body differs.
    """
    if getattr(source, "kernel_transform", False) and not getattr(target, "kernel_transform", True):
        raise WeightsError(f"{path} was trained with --kernel-transform; add it")
    have, want = source.state_dict(), target.state_dict()
    with torch.no_grad():
        for name, tensor in want.items():
            found = have.get(name)
            if found is not None and found.shape == tensor.shape:
                tensor.copy_(found)
            elif found is None and is_transform(name):
                continue  # of weights that were trained without: the identity, as at first
            elif "head." not in name and name.split(".")[0] not in ("decoder",):
                raise WeightsError(
                    f"{path} is of another space or network: {name} is "
                    + ("missing" if found is None else f"{tuple(found.shape)}")
                    + f", not {tuple(tensor.shape)}"
                )


def _gives(arch: Arch) -> str:
    """What a teacher must share with its students."""
    if isinstance(arch.head, SuperResolutionHead):
        return f"{arch.task} by {arch.head.scale}"
    classes = getattr(arch.head, "num_classes", None)
    return arch.task + (f" of {classes} classes" if classes else "")
