"""A network as a PyTorch module, built from `blocks_of(arch)`, and the names users know.

B batch, C channels, H height, W width, K classes.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from results.errors import ArchError, WeightsError, check_choice
from supernet.arch import (
    LOCAL_KINDS,
    Arch,
    ClassificationHead,
    PromptableHead,
    SegmentationHead,
    SuperResolutionHead,
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
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAM_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
SAM_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)


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
        """Channels of `forward_features`."""
        return self.arch.stages[-1].width

    @property
    def default_cfg(self) -> dict[str, Any]:
        """How pictures must be prepared, in timm's terms; mean and std of RGB in 0..1."""
        return default_cfg(self.arch)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ArchError where a promptable network meets another size than its own."""
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
        """The stem's and every stage's output, finest first."""
        outputs = []
        for stage in self._ends:
            x = getattr(self, stage)(x)
            outputs.append(x)
        return outputs

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's output, (B, num_features, H/32, W/32)."""
        for stage in self._ends:
            x = getattr(self, stage)(x)
        return x


@dataclass(frozen=True)
class FeatureInfo:
    """What `features_only` models give, in timm's manner."""

    arch: Arch

    def channels(self) -> list[int]:
        return [stage.width for stage in self.arch.stages]

    def reduction(self) -> list[int]:
        """Input pixels per feature, a side."""
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
        """Channels of the last map."""
        return self.backbone.num_features

    @property
    def default_cfg(self) -> dict[str, Any]:
        """See `EfficientViT.default_cfg`."""
        return self.backbone.default_cfg

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, C, H/4, W/4), (B, C, H/8, W/8), ...]."""
        return self.backbone.forward_stages(x)[1:]


def module_of(block: Block, eps: float) -> nn.Module:
    """The one PyTorch module of a block; `eps` is that of its normalisations."""
    module = entry_of(MODULES, block, "supernet/layers/mixers.py")(block, eps)
    return Residual(module) if block.residual else module


def build(arch: Arch) -> EfficientViT:
    """The network of `arch`; of a promptable one the image encoder."""
    return EfficientViT(arch)


def build_task_model(arch: Arch) -> "EfficientViT | Sam":
    """What performs the task: `Sam` where it is promptable, else the network itself."""
    model = build(arch)
    return Sam(model) if isinstance(arch.head, PromptableHead) else model


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    pretrained: Path | str | bool | None = None,
    features_only: bool = False,
    resolution: int | tuple[int, int] | None = None,
) -> "EfficientViT | FeatureExtractor | Sam":
    """A model by the name its users know; `model_names()` lists them.

    Args:
        num_classes: of the head; by default the file's, else the data set's. 0: no head,
            pooled features.
        pretrained: a file of weights, see `supernet.weights.files`; none come with the project. A
            classifier for another number of classes than you ask for, or a head for another
            task, stays at random, with a warning.
        features_only: the outputs of all stages instead of the head's.
        resolution: input size in pixels that `model.arch` shall speak of.

    Raises ArchError for an unknown name or setting, WeightsError for unfitting weights.
    """
    arch = model_arch(name)
    if features_only and num_classes is not None:
        raise ArchError("features_only gives no classes; leave num_classes out")
    if not (pretrained is None or pretrained is False or isinstance(pretrained, Path | str)):
        raise WeightsError(
            f"pretrained={pretrained!r}: no weights come with this project; name a file of them"
        )
    if num_classes is not None and (type(num_classes) is not int or num_classes < 0):
        raise ArchError(f"num_classes must be a whole number, 0 or more, not {num_classes!r}")
    if resolution is not None:
        arch = replace(arch, resolution=_sides(resolution))
    if num_classes is not None and not isinstance(arch.head, ClassificationHead | SegmentationHead):
        raise ArchError(f"{name} has no classes, so num_classes cannot be {num_classes}")
    in_file = None
    if isinstance(pretrained, Path | str) and num_classes is None:
        num_classes = in_file = _classes_of_file(arch, pretrained)
    if num_classes == 0:
        arch = replace(arch, head=None)
    elif isinstance(arch.head, ClassificationHead | SegmentationHead) and num_classes is not None:
        arch = replace(arch, head=replace(arch.head, num_classes=num_classes))
    if in_file is not None and isinstance(pretrained, Path | str):
        from supernet.weights.files import check_weights

        check_weights(arch, pretrained)  # before as many classes are allocated as the file says
    model = build(arch) if features_only else build_task_model(arch)
    if isinstance(pretrained, Path | str):
        from supernet.weights.files import load_weights

        left = load_weights(model, pretrained, partial=True)
        if left and not features_only:
            warnings.warn(
                f"{len(left)} tensors of the head are not in {pretrained} and stay at random: "
                f"{left[0]}, ...",
                stacklevel=2,
            )
    return FeatureExtractor(model) if isinstance(model, EfficientViT) and features_only else model


def _classes_of_file(arch: Arch, path: Path | str) -> int | None:
    """Of a file for the same task, so that a fine-tuned network comes back as it was."""
    from supernet.weights.files import num_classes_in

    return num_classes_in(path, arch.task)


def _sides(resolution: object) -> tuple[int, int]:
    sides = tuple(resolution) if isinstance(resolution, list | tuple) else (resolution,) * 2
    if len(sides) != 2 or any(type(side) is not int for side in sides):
        raise ArchError(f"resolution is a side or (height, width) in pixels, not {resolution!r}")
    return sides


def model_names() -> list[str]:
    return list(MODELS)


def model_arch(name: str) -> Arch:
    """The Arch of a model's name. Raises ArchError with the nearest name."""
    known = name.partition(".")[0]  # timm's names go on with a tag of weights
    known = known if known.startswith("efficientvit_") else f"efficientvit_{known}"
    refuse_other_family(known)
    check_choice("model", known, MODELS, ArchError)
    told = known_name(name)
    return named_arch(**MODELS[known], resolution=told[1] if told else None)


def _model_arguments() -> dict[str, dict[str, Any]]:
    """Arguments of `named_arch` by the name of the model."""
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


def default_cfg(arch: Arch) -> dict[str, Any]:
    """How pictures must be prepared for `arch`, in timm's terms."""
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    interpolation = "bicubic"
    if isinstance(arch.head, PromptableHead):
        mean, std, interpolation = SAM_MEAN, SAM_STD, "bilinear"
    elif isinstance(arch.head, SuperResolutionHead):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    backbone = replace(arch, head=None, resolution=BACKBONES["b0"].resolution)
    small = backbone in (BACKBONES["b0"], BACKBONES["b1"])
    return {
        "input_size": (3, *arch.resolution),
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
        # the official evaluation's, https://github.com/mit-han-lab/efficientvit
        "crop_pct": 0.95 if small and arch.task == "classification" else 1.0,
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
    """The head's blocks; a value is dropped after the last step that reads it."""
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
