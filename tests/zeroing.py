"""A subnet the slow and obvious way: its supernet's largest network with what is dropped at zero.

Nothing here knows how tensors are sliced. The largest network with the Arch's own mixers, head
dims, local blocks and head runs whole; hooks zero the channels, heads, scales and blocks that
the Arch does not have, and kernels lose their border.
"""

import random
from dataclasses import replace
from typing import Any

import torch

from supernet.arch import HEADED, ClassificationHead
from supernet.blocks import blocks_of
from supernet.layers.convolutions import LocalBlock
from supernet.model import build

OWN = ("local", "mixer", "head_dim")  # fields of a stage that are no parts of a larger choice


def widest(supernet, arch):
    """The largest network of the choices of `arch` that have weights of their own."""
    part = supernet.space.part_of(arch)[1]
    values = part.values(arch)
    for name, choices in part.dimensions.items():
        field = name.rpartition(".")[2]
        if field == "scales":
            values[name] = tuple(sorted({scale for scales in choices for scale in scales}))
        elif field not in OWN and name not in ("head.widths", "resolution"):
            values[name] = max(choices)
    for number, stage in enumerate(arch.stages, start=1):
        if stage.mixer in HEADED:
            values[f"stage{number}.head_dim"] = stage.head_dim
    largest = part.build(values, 1)
    stem = replace(largest.stem, stride=arch.stem.stride)
    head = _widest_head(supernet, arch)
    return replace(largest, stem=stem, head=head, resolution=arch.resolution)


def _widest_head(supernet, arch):
    if isinstance(arch.head, ClassificationHead) or not hasattr(arch.head, "width"):
        return arch.head
    part = supernet.space.part_of(arch)[1]
    heads = [a.head for a in samples(supernet.space, 100) if supernet.space.part_of(a)[1] == part]
    return replace(
        arch.head,
        **{
            field: max(getattr(head, field) for head in heads)
            for field in ("width", "depth", "expand_ratio", "final_expand")
            if hasattr(arch.head, field)
        },
    )


def samples(space, number):
    rng = random.Random(0)
    return [space.sample(rng) for _ in range(number)]


def whole_network(supernet, arch):
    """`widest` on the very tensors of the supernet, whole."""
    part = supernet.space.part_of(arch)[1]
    state = supernet.nets[part.name].state_dict(keep_vars=True)
    with torch.device("meta"):
        network = build(widest(supernet, arch))
    own = network.state_dict()
    network.load_state_dict({name: state[name] for name in own}, assign=True)
    return network


def calibrate(supernet, arch, pictures):
    """Running statistics of `whole_network` become those of `pictures`."""
    arch = replace(arch, resolution=tuple(pictures.shape[2:]))
    network = whole_network(supernet, arch).train()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        network(pictures)


@torch.no_grad()
def zeroed(supernet, arch, pictures):
    """What `whole_network` gives for `pictures` with everything that `arch` drops at zero."""
    arch = replace(arch, resolution=tuple(pictures.shape[2:]))
    network = whole_network(supernet, arch).eval()
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    kept = {block.name: block for block in blocks_of(arch)}
    wide = {block.name: block for block in blocks_of(network.arch)}
    assert kept.keys() <= wide.keys()
    for name, block in wide.items():
        module = network.get_submodule(name)
        if name not in kept:
            assert block.residual
            module.register_forward_hook(lambda module, inputs, output: inputs[0])
            continue
        _zero(module, block, kept[name])
    return network(pictures)


def _zero(module, wide, kept):
    main = module.main if wide.residual else module
    if wide.residual or wide.kind not in ("pool", "linear", "upsample", "pixel_shuffle", "add"):
        module.register_forward_hook(
            lambda module, inputs, output: output * in_front(kept.out_channels, output)
        )
    if isinstance(main, LocalBlock):
        convs: list[Any] = list(main.children())
        for conv in convs:
            border = (conv.conv.kernel_size[0] - kept.kernel_size) // 2
            if conv.conv.kernel_size[0] > 1 and border:
                middle = conv.conv.weight[..., border:-border, border:-border].clone()
                conv.conv.weight.zero_()[..., border:-border, border:-border] = middle
        convs[-1].register_forward_pre_hook(
            lambda module, inputs: inputs[0] * in_front(kept.mid_channels, inputs[0])
        )
    elif wide.kind == "relu_linear":
        total, total_kept = (b.num_heads * b.head_dim for b in (wide, kept))
        mask = torch.zeros(1, total * (1 + len(wide.scales)), 1, 1, dtype=torch.float64)
        for position, scale in enumerate((0, *wide.scales)):
            if scale in (0, *kept.scales):
                mask[:, position * total : position * total + total_kept] = 1
        main.proj.register_forward_pre_hook(lambda module, inputs: inputs[0] * mask)
    elif hasattr(main, "proj"):
        main.proj.register_forward_pre_hook(
            lambda module, inputs: inputs[0] * in_front(kept.in_channels, inputs[0])
        )


def in_front(number, like):
    mask = torch.zeros(1, like.shape[1], 1, 1, dtype=like.dtype)
    mask[:, :number] = 1
    return mask
