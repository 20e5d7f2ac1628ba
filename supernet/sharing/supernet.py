"""The supernet: one set of weights for every Arch of a space.

Of every block that Archs of a space have it holds the largest; a subnet is the network of its
Arch run on parts of these tensors. What is dropped is as if it were zero, but that normalising
over an elastic width normalises the kept channels.

Elastic kernels and their transforms: Cai et al., Once-for-All, 2020,
https://arxiv.org/abs/1908.09791
"""

from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from supernet.arch import Arch, PromptableHead
from supernet.blocks import Block, blocks_of
from supernet.model import EfficientViT, attach, build_task_model, module_of
from supernet.sam.model import PromptDecoder
from supernet.sharing.extremes import WEIGHTLESS, kernel_sizes_of, largest_of, union_of
from supernet.sharing.slices import Slice, centre, slices_of
from supernet.space import Part, Space

MAX_PLANS = 1024  # Archs whose plans are kept
Plan = list[tuple[str, "_Source"]]  # by the name in the network


class _Source(NamedTuple):
    """Where a tensor of a subnet comes from."""

    owner: str  # the module of the supernet that has the tensor
    leaf: str  # its name there
    slice: Slice
    read: Slice  # `slice`, but of the largest kernel where that is transformed
    kernels: tuple[int, ...]  # sizes that a kernel is transformed through, largest first


class Supernet(nn.Module):
    """Shared weights of every Arch of a space.

    A net of its own for each part of the space, in `nets`; it is a container of blocks and no
    network. Gradients and running statistics of a subnet reach the supernet's tensors. After
    training, statistics must be computed anew for each extracted subnet, see
    `supernet.evaluation.batchnorm`.

    Attributes:
        largest: of each part the largest Arch.
        decoder: where the task is promptable, what all image encoders share; else None.
    """

    def __init__(self, space: Space, *, kernel_transform: bool = False) -> None:
        """`kernel_transform`: a smaller kernel is a learned linear map of the next larger one's
        centre, the identity at first, one for each layer and shared by its channels."""
        super().__init__()
        self.space = space
        self.kernel_transform = kernel_transform
        self.largest = largest_of(space)
        self.nets = nn.ModuleDict()
        self._unions: dict[str, dict[str, Block]] = {}
        for part, arch in zip(space.parts, self.largest, strict=True):
            net, union = nn.Module(), union_of(space, part)
            for block in union.values():
                module = module_of(block, arch.norm_eps)
                if kernel_transform:
                    _add_transforms(module, kernel_sizes_of(part, block))
                attach(net, block.name.split("."), module)
            self.nets[part.name] = net
            self._unions[part.name] = union
        promptable = isinstance(self.largest[0].head, PromptableHead)
        self.decoder = PromptDecoder() if promptable else None
        self._owners = dict(self.named_modules())
        self.max_plans = MAX_PLANS
        self._plans: OrderedDict[Arch, Plan] = OrderedDict()

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """Return what the network of `arch` gives, at any size of x. Raises SpaceError."""
        network = skeleton(_at(arch, (x.shape[2], x.shape[3]))).train(self.training)
        output: Tensor = functional_call(network, self.weights(arch), (x,), tie_weights=False)
        return output

    def weights(self, arch: Arch) -> dict[str, Tensor]:
        """Return the tensors of `arch` by their names in `build(arch)`, as parts of the supernet's.

        Views, but where a kernel is transformed or scales are dropped.

        Raises SpaceError, naming the dimension, for an Arch outside the space; it may have any
        resolution.
        """
        return {name: self._tensor(source) for name, source in self._plan(arch)}

    def put(self, arch: Arch, weights: dict[str, Tensor]) -> None:
        """Write a network's tensors where `weights` reads them. Raises SpaceError."""
        for name, source in self._plan(arch):
            wide = getattr(self._owners[source.owner], source.leaf)
            source.slice.put(wide, weights[name])

    def extract(self, arch: Arch) -> nn.Module:
        """Return a stand-alone copy, of the same mode, device and type. Raises SpaceError."""
        with torch.device("meta"):
            model = build_task_model(arch)
        state = self.weights(arch)
        if self.decoder is not None:
            state = {f"image_encoder.{name}": tensor for name, tensor in state.items()}
            state |= self.decoder.state_dict()
        copies = {name: tensor.detach().clone() for name, tensor in state.items()}
        model.load_state_dict(copies, assign=True)
        return model.train(self.training)

    def _tensor(self, source: _Source) -> Tensor:
        owner = self._owners[source.owner]
        tensor = source.read.of(getattr(owner, source.leaf))
        for large, small in pairwise(source.kernels):
            matrix = getattr(owner, _transform(large, small))
            flat = centre(tensor, small).flatten(2) @ matrix.T
            tensor = flat.unflatten(2, (small, small))
        return tensor

    def _plan(self, arch: Arch) -> Plan:
        plan = self._plans.get(arch)
        if plan is None:
            plan = self._plans[arch] = self._new_plan(arch)
            if len(self._plans) > self.max_plans:
                self._plans.popitem(last=False)
        self._plans.move_to_end(arch)
        return plan

    def _new_plan(self, arch: Arch) -> Plan:
        _, part = self.space.part_of(arch)
        _check_inside(self.space, part, arch)
        union = self._unions[part.name]
        plan: Plan = []
        for block in blocks_of(arch):
            if block.kind in WEIGHTLESS:
                continue
            wide = union[block.name]
            kernels = kernel_sizes_of(part, block) if self.kernel_transform else ()
            plan += _sources(part.name, block.name, wide, block, kernels)
        return plan


@lru_cache(maxsize=1 << 14)
def _sources(part: str, name: str, wide: Block, narrow: Block, kernels: tuple[int, ...]) -> Plan:
    """Return the plan of one block; `kernels`: sizes that it may be transformed through, or ()."""
    plan: Plan = []
    for cut in slices_of(wide, narrow):
        path, _, leaf = f"nets.{part}.{name}.{cut.name}".rpartition(".")
        is_kernel = len(cut.shape) == 4 and cut.shape[-1] > 1
        sizes = tuple(k for k in kernels if k >= narrow.kernel_size) if is_kernel else ()
        read = _whole_kernel(cut) if len(sizes) > 1 else cut
        plan.append((f"{name}.{cut.name}", _Source(path, leaf, cut, read, sizes)))
    return plan


def _whole_kernel(cut: Slice) -> Slice:
    return replace(cut, index=cut.index[:2] if cut.index else None)


@lru_cache(maxsize=256)
def skeleton(arch: Arch) -> EfficientViT:
    """Return the network of `arch` without memory: names, shapes and a forward pass.

    Skeletons share blocks, and all are of the mode that was set last.
    """
    return EfficientViT(arch, lambda block, eps: _meta_module(block.name, block, eps))


@lru_cache(maxsize=1 << 12)
def _meta_module(name: str, block: Block, eps: float) -> nn.Module:
    """Return a block's module without memory, one for each name: it holds tensors as it runs."""
    with torch.device("meta"):
        return module_of(block, eps)


def _at(arch: Arch, size: tuple[int, int]) -> Arch:
    """Return `arch` at the size that skeletons are kept at.

    Only in promptable networks the size decides what blocks there are.
    """
    if isinstance(arch.head, PromptableHead):
        return replace(arch, resolution=size)
    return replace(arch, resolution=(256, 256))


def _check_inside(space: Space, part: Part, arch: Arch) -> None:
    resolutions: tuple[tuple[int, int], ...] = part.dimensions["resolution"]  # type: ignore[assignment]
    if arch.resolution not in resolutions:
        arch = replace(arch, resolution=resolutions[0])
    space.encode(arch)


def _transform(large: int, small: int) -> str:
    return f"kernel_{large}to{small}"


def is_transform(name: str) -> bool:
    """Tell whether a tensor of a supernet is a kernel's transform."""
    return name.rpartition(".")[2].startswith("kernel_")


def _add_transforms(module: nn.Module, sizes: tuple[int, ...]) -> None:
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size[0] > 1:
            for large, small in pairwise(sizes):
                matrix = nn.Parameter(torch.eye(small**2))
                conv.register_parameter(_transform(large, small), matrix)
