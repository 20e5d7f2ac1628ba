"""A network as a PyTorch module, built from `blocks_of(arch)`, and the names users know.

B batch, C channels, H height, W width, K classes.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from results.errors import ArchError, WeightsError, check_choice
from supernet.arch import (
    LOCAL_KINDS,
    Arch,
    ClassificationHead,
    PromptableHead,
    SegmentationHead,
    format_resolution,
)
from supernet.blocks import IMAGE, Block, blocks_of, entry_of
from supernet.layers.convolutions import Conv, LocalBlock, Residual
from supernet.layers.heads import (
    Add,
    ChannelNorm,
    GlobalPool,
    LinearNormAct,
    PixelShuffle,
    Upsample,
)
from supernet.layers.mixers import MIXERS
from supernet.official import (
    BACKBONES,
    SEGMENTATION_HEADS,
    SUPER_RESOLUTION,
    known_name,
    named_arch,
    refuse_other_family,
)
from supernet.sam.model import Sam
from supernet.weights.preprocessing import Preprocessing, preprocessing_of

MODULES: dict[str, Callable[[Block, float], nn.Module]] = {
    "conv": Conv,
    **dict.fromkeys(LOCAL_KINDS, LocalBlock),
    "pool": GlobalPool,
    "linear": LinearNormAct,
    "upsample": Upsample,
    "pixel_shuffle": PixelShuffle,
    "add": Add,
    "layer_norm": ChannelNorm,
} | MIXERS


@dataclass(frozen=True, slots=True)
class _Step:
    """One block of the head: what it reads, and what nothing reads after it."""

    name: str
    inputs: tuple[int, ...]
    output: int
    dead: tuple[int, ...]


class EfficientViT(nn.Module):
    """The network that `blocks_of(arch)` describes: children `stem`, `stage1`, ..., `head`.

    Inputs of any size work, whatever `arch.resolution` is, but for promptable networks, which
    take that size alone. `forward` gives what the task asks for. Classification: logits, (B,
    K). Segmentation: logits at stride 8, (B, K, H/8, W/8). Promptable: the image embedding,
    (B, 256, 64, 64). Super-resolution: the enlarged picture, (B, 3, scale H, scale W). No head:
    the mean over all positions, (B, num_features).
    """

    def __init__(self, arch: Arch, make: Callable[[Block, float], nn.Module] | None = None) -> None:
        """`make`: gives the module of a block and an epsilon, by default `module_of`."""
        super().__init__()
        self.arch = arch
        self.preprocessing = preprocessing_of(arch)  # that of the file, once weights are loaded
        blocks = blocks_of(arch)
        for block in blocks:
            attach(self, block.name.split("."), (make or module_of)(block, arch.norm_eps))
        backbone = [index for index, block in enumerate(blocks) if block.stage != "head"]
        assert not any(blocks[index].inputs for index in backbone), "the backbone is a chain"
        self._ends = {blocks[index].stage: index for index in backbone}  # a stage's last block
        self._steps = _steps_of(blocks, first=len(backbone))
        self._read = {i for step in self._steps for i in step.inputs}

    @property
    def num_features(self) -> int:
        """Return the channels of `forward_features`."""
        return self.arch.stages[-1].width

    @property
    def default_cfg(self) -> dict[str, Any]:
        """Return how pictures must be prepared, in timm's terms; mean and std of RGB in 0..1."""
        return default_cfg(self.arch, self.preprocessing)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the task asks for, see the class, for pictures (B, 3, H, W).

        Raises ArchError where a promptable network meets another size than its own.
        """
        if isinstance(self.arch.head, PromptableHead) and x.shape[2:] != self.arch.resolution:
            raise ArchError(
                f"this image encoder takes {format_resolution(self.arch.resolution)} px, not "
                f"{x.shape[2]}x{x.shape[3]}; build it with that resolution"
            )
        values = {IMAGE: x} if IMAGE in self._read else {}
        for stage, end in self._ends.items():
            x = getattr(self, stage)(x)
            if end in self._read:
                values[end] = x
        if not self._steps:
            return x.mean((2, 3))
        del x
        for step in self._steps:
            module = self.get_submodule(step.name)
            values[step.output] = module(*(values[i] for i in step.inputs))
            for index in step.dead:
                del values[index]
        return values[self._steps[-1].output]

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Return the output of the stem and of every stage, finest first."""
        outputs = []
        for stage in self._ends:
            x = getattr(self, stage)(x)
            outputs.append(x)
        return outputs

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the output of the last stage, (B, num_features, H/32, W/32)."""
        for stage in self._ends:
            x = getattr(self, stage)(x)
        return x


@dataclass(frozen=True)
class FeatureInfo:
    """What `features_only` models give, in timm's manner."""

    arch: Arch

    def channels(self) -> list[int]:
        """Return the channels of every map."""
        return [stage.width for stage in self.arch.stages]

    def reduction(self) -> list[int]:
        """Return input pixels per feature of every map, a side."""
        return [self.arch.stem.stride * 2**n for n in range(1, len(self.arch.stages) + 1)]


class FeatureExtractor(nn.Module):
    """The output of every stage after the stem, for dense heads.

    Takes the backbone of a network, with its epsilon and preparation of pictures; the head is
    dropped.
    """

    def __init__(self, network: EfficientViT) -> None:
        super().__init__()
        self.backbone = network
        self.backbone._modules.pop("head", None)
        self.arch = network.arch
        self.feature_info = FeatureInfo(self.arch)

    @property
    def num_features(self) -> int:
        """Return the channels of the last map."""
        return self.backbone.num_features

    @property
    def default_cfg(self) -> dict[str, Any]:
        """Return how pictures must be prepared; see `EfficientViT.default_cfg`."""
        return self.backbone.default_cfg

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one map a stage, (B, C, H/4, W/4), (B, C, H/8, W/8), ..., for (B, 3, H, W)."""
        return self.backbone.forward_stages(x)[1:]


def module_of(block: Block, eps: float) -> nn.Module:
    """Return the PyTorch module of a block; `eps` is that of its normalisations."""
    module = entry_of(MODULES, block, "supernet/layers/mixers.py")(block, eps)
    return Residual(module) if block.residual else module


def build(arch: Arch) -> EfficientViT:
    """Return the network of `arch`, of a promptable one the image encoder."""
    return EfficientViT(arch)


def build_task_model(arch: Arch) -> EfficientViT | Sam:
    """Return what performs the task: `Sam` where it is promptable, else the network itself."""
    model = build(arch)
    return Sam(model) if isinstance(arch.head, PromptableHead) else model


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    pretrained: Path | str | bool | None = None,
    features_only: bool = False,
    resolution: int | tuple[int, int] | None = None,
    tell: Callable[[str], object] | None = None,
) -> EfficientViT | FeatureExtractor | Sam:
    """Return a model by the name its users know; `model_names()` lists them.

    Args:
        num_classes: of the head; by default the file's, else the data set's. 0: pooled features.
        pretrained: a file of weights, see `supernet.weights.files`; none come with the project. A
            classifier for another number of classes than you ask for, or a head for another
            task, stays at random, with a warning.
        features_only: the outputs of all stages instead of the head's.
        resolution: input size in pixels that `model.arch` shall speak of; by default that of
            `name`, else the one that a network for the same task in the file was trained at.
        tell: is given which of several networks in the file was taken, in one line.

    Raises ArchError for an unknown name or setting, WeightsError for unfitting weights.
    """
    arch = model_arch(name)
    if features_only and num_classes is not None:
        raise ArchError("features_only gives no classes; leave num_classes out")
    if not (pretrained is None or pretrained is False or isinstance(pretrained, Path | str)):
        raise WeightsError(
            f"pretrained={pretrained!r}: no weights come with this project; name a file of them"
        )
    _check_num_classes(num_classes, arch, name)
    if resolution is not None:
        arch = replace(arch, resolution=_sides(resolution))
    if not isinstance(pretrained, Path | str):
        return _built(_with_classes(arch, num_classes), features_only)
    # A target that modules are timed on lacks what files are read with.
    from supernet.weights.files import read_weights
    from supernet.weights.fitting import fit

    weights = read_weights(pretrained)
    named = known_name(name)
    if resolution is None and not (named and named[1]):
        arch = _as_trained(arch, weights.header.arch_as_trained)
    in_file = weights.num_classes(arch.task) if num_classes is None else None
    arch = _with_classes(arch, num_classes if in_file is None else in_file)
    if in_file is not None:
        with torch.device("meta"):  # before as many classes are allocated as the file says
            plan = build_task_model(arch)
        fit(weights, plan)
    model = build(arch) if features_only else build_task_model(arch)
    fitting = fit(weights, model, partial=True)
    fitting.put_in(model, tell)
    if fitting.left and not features_only:
        warnings.warn(
            f"{len(fitting.left)} tensors of the head are not in {pretrained} and stay at random: "
            f"{fitting.left[0]}, ...",
            stacklevel=2,
        )
    return FeatureExtractor(model) if isinstance(model, EfficientViT) and features_only else model


def _built(arch: Arch, features_only: bool) -> EfficientViT | FeatureExtractor | Sam:
    return FeatureExtractor(build(arch)) if features_only else build_task_model(arch)


def _check_num_classes(num_classes: object, arch: Arch, name: str) -> None:
    """Raise ArchError for what is no number of classes, and for a network without classes."""
    if num_classes is None:
        return
    if type(num_classes) is not int or num_classes < 0:
        raise ArchError(f"num_classes must be a whole number, 0 or more, not {num_classes!r}")
    if not isinstance(arch.head, ClassificationHead | SegmentationHead):
        raise ArchError(f"{name} has no classes, so num_classes cannot be {num_classes}")


def _with_classes(arch: Arch, num_classes: int | None) -> Arch:
    """Return `arch` with that many classes: None leaves the head as it is, 0 drops it."""
    if num_classes == 0:
        return replace(arch, head=None)
    if num_classes is None or not isinstance(arch.head, ClassificationHead | SegmentationHead):
        return arch
    return replace(arch, head=replace(arch.head, num_classes=num_classes))


def _as_trained(arch: Arch, in_file: Arch | None) -> Arch:
    """Return `arch` at the resolution of a network in a file, if that is for the same task."""
    if in_file is None or in_file.task != arch.task:
        return arch
    return replace(arch, resolution=in_file.resolution)


def _sides(resolution: object) -> tuple[int, int]:
    sides = tuple(resolution) if isinstance(resolution, list | tuple) else (resolution,) * 2
    if len(sides) != 2 or any(type(side) is not int for side in sides):
        raise ArchError(f"resolution is a side or (height, width) in pixels, not {resolution!r}")
    return sides


def model_names() -> list[str]:
    """Return the names that `create_model` takes."""
    return list(MODELS)


def model_arch(name: str) -> Arch:
    """Return the Arch of a model's name. Raises ArchError with the nearest name."""
    model = name.partition(".")[0]  # timm's names go on with a tag of weights
    model = model if model.startswith("efficientvit_") else f"efficientvit_{model}"
    refuse_other_family(model)
    check_choice("model", model, MODELS, ArchError)
    named = known_name(name)
    return named_arch(**MODELS[model], resolution=named[1] if named else None)


def _model_arguments() -> dict[str, dict[str, Any]]:
    """Return the arguments of `named_arch` by the name of the model."""
    names: dict[str, dict[str, Any]] = {}
    for name in BACKBONES:
        names[f"efficientvit_{name}"] = {"name": name}
    for dataset, heads in SEGMENTATION_HEADS.items():
        for name in heads:
            arguments = {"name": name, "task": "segmentation", "dataset": dataset}
            names[f"efficientvit_seg_{name}_{dataset}"] = arguments
    for name in SUPER_RESOLUTION:
        names[f"efficientvit_{name}"] = {"name": name}
    return names


MODELS = _model_arguments()


def default_cfg(arch: Arch, preprocessing: Preprocessing | None = None) -> dict[str, Any]:
    """Return how pictures must be prepared for `arch`, in timm's terms.

    `preprocessing`: of the weights, where their file tells it; else the official one.
    """
    prepared = preprocessing or preprocessing_of(arch)
    return {
        "input_size": (3, *arch.resolution),
        "mean": prepared.mean,
        "std": prepared.std,
        "interpolation": prepared.interpolation,
        "crop_pct": prepared.crop_pct,
        "num_classes": getattr(arch.head, "num_classes", 0),
    }


def attach(parent: nn.Module, path: list[str], module: nn.Module) -> None:
    """Put `module` at `path` below `parent`, through containers that run their children in turn."""
    name, *rest = path
    if not rest:
        parent.add_module(name, module)
        return
    if name not in parent._modules:
        parent.add_module(name, nn.Sequential())
    attach(parent.get_submodule(name), rest, module)


def _steps_of(blocks: Sequence[Block], first: int) -> tuple[_Step, ...]:
    """Return the head's blocks in order; a value is dropped after the last step that reads it."""
    inputs = {i: blocks[i].inputs or (i - 1,) for i in range(first, len(blocks))}
    last_read = {value: i for i, values in inputs.items() for value in values}
    return tuple(
        _Step(
            blocks[i].name,
            values,
            i,
            tuple(value for value in dict.fromkeys(values) if last_read[value] == i),
        )
        for i, values in inputs.items()
    )
