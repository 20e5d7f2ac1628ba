"""The networks of a training: what is trained, with its first weights, its teacher, its subnets."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from results.errors import WeightsError
from supernet.arch import Arch, SuperResolutionHead
from supernet.layers.initialise import initialise_weights
from supernet.model import build_task_model
from supernet.resolve import arch_in_space
from supernet.sam.model import Sam
from supernet.sharing.checkpoint import init_with, supernet_with
from supernet.sharing.supernet import Supernet, is_transform
from supernet.training.attentive import read_costs
from supernet.training.batches import seed_of
from supernet.training.plan import TrainingPlan
from supernet.training.sandwich import OneArch, Sampler, SandwichRule
from supernet.training.trainer import SingleNetwork
from supernet.weights.files import begin_with, read_weights
from supernet.weights.networks import network_with


def sampler_of(plan: TrainingPlan, tell: Callable[[str], object] | None = None) -> Sampler:
    """Return what draws the networks of each step.

    `tell` is given what was assumed of --costs, in one line. Raises TableError where they cannot
    be read.
    """
    options = plan.options
    if plan.arch is not None:
        return OneArch(plan.arch, options.seed, plan.resolutions)
    assert plan.space is not None
    return SandwichRule(
        plan.space,
        options.random_subnets,
        options.seed,
        plan.recipe.num_steps,
        resolutions=plan.resolutions,
        costs=read_costs(options.costs, plan.space, tell=tell) if options.costs else None,
        shrink=options.shrink,
    )


def first_model(
    plan: TrainingPlan,
    *,
    with_init: bool = True,
    tell: Callable[[str], object] | None = None,
) -> Supernet | SingleNetwork:
    """Return what is trained with its first weights, the same in every process.

    They are those of --init, where it is given, if `with_init`. `tell` is given which of several
    networks in that file was taken, in one line. Raises WeightsError or SpaceError where these do
    not fit.
    """
    torch.manual_seed(seed_of(plan.options.seed, "weights"))
    init = plan.init if with_init else None
    if with_init and init is None and plan.options.init:  # a run that goes on with its first step
        init = read_weights(plan.options.init)
    model = _model(plan)
    if isinstance(model, Supernet):
        initialise_weights(model.nets)
        if init is not None and init.header.kind == "supernet":
            _copy_body(supernet_with(init), model, init.path)
        elif init is not None:
            init_with(model, init, tell=tell)
        return model
    assert plan.arch is not None
    network = model.network
    encoder = network.image_encoder if isinstance(network, Sam) else network
    initialise_weights(encoder)
    if init is not None and init.header.kind == "supernet":
        supernet = supernet_with(init)
        source = supernet.extract(arch_in_space(supernet.space, plan.arch))
        _copy_body(source, network if isinstance(source, Sam) else encoder, init.path)
    elif init is not None:
        begin_with(network, init, tell=tell)
    return model


def shapes_of(plan: TrainingPlan) -> dict[str, Tensor]:
    """Return the tensors of the model by name, on the meta device.

    They take no memory: a run that somebody sent may ask for more than its weights do.
    """
    with torch.device("meta"):
        return dict(_model(plan).state_dict())


def _model(plan: TrainingPlan) -> Supernet | SingleNetwork:
    if plan.space is not None:
        return Supernet(plan.space, kernel_transform=plan.options.kernel_transform)
    assert plan.arch is not None
    return SingleNetwork(build_task_model(plan.arch))


def load_teacher(plan: TrainingPlan) -> nn.Module | None:
    """Return the network of --teacher; None where there is none, or the task has its own.

    Raises WeightsError where it does other things than the networks that learn from it.
    """
    weights = plan.teacher
    if weights is None or plan.task.name == "promptable":
        return None
    arch = weights.header.arch
    if arch is None:
        raise WeightsError(
            f"{weights.path} does not tell its architecture; evaluate it by supernet.evaluate and "
            "save it by supernet.weights.files.save_weights"
        )
    trained = plan.arch or next(iter(plan.evaluated_subnets.values()))
    if type(arch.head) is not type(trained.head) or _purpose(arch) != _purpose(trained):
        raise WeightsError(
            f"{weights.path} is a network for {_purpose(arch)}, and {_purpose(trained)} is trained"
        )
    return network_with(weights, arch).requires_grad_(False)


def _copy_body(source: nn.Module, target: nn.Module, path: Path) -> None:
    """Copy all tensors of `source` that `target` has, but for a head's of another shape.

    Raises WeightsError where a tensor of the body differs.
    """
    if getattr(source, "kernel_transform", False) and not getattr(target, "kernel_transform", True):
        raise WeightsError(f"{path} was trained with --kernel-transform; add it")
    have, want = source.state_dict(), target.state_dict()
    with torch.no_grad():
        for name, tensor in want.items():
            given = have.get(name)
            if given is not None and given.shape == tensor.shape:
                tensor.copy_(given)
            elif given is None and is_transform(name):
                continue  # of weights that were trained without: the identity, as at first
            elif "head." not in name and name.split(".")[0] not in ("decoder",):
                raise WeightsError(
                    f"{path} is of another space or network: {name} is "
                    + ("missing" if given is None else f"{tuple(given.shape)}")
                    + f", not {tuple(tensor.shape)}"
                )


def _purpose(arch: Arch) -> str:
    """Return what a teacher must share with its students, in words."""
    if isinstance(arch.head, SuperResolutionHead):
        return f"{arch.task} by {arch.head.scale}"
    classes = getattr(arch.head, "num_classes", None)
    return arch.task + (f" of {classes} classes" if classes else "")
