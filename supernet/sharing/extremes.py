"""The largest and the smallest Archs of a space, and the blocks that hold all others.

A supernet is made of the largest block of every name: widths, depths, kernels and scales are
parts of it, while every mixer, head dim, kind of local block and size of classification head
has a name, hence weights, of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from supernet.arch import (
    HEADED,
    Arch,
    ClassificationHead,
    Head,
    SegmentationHead,
)
from supernet.blocks import Block, BlockKind, blocks_of
from supernet.official import (
    heads_of,
    named_params,
    official_arch,
    params_at_head_dim_16,
    with_head,
)
from supernet.space import Part, Space, Value

WEIGHTLESS: tuple[BlockKind, ...] = ("pool", "upsample", "pixel_shuffle", "add")
OWN_WEIGHTS = ("local", "mixer", "head_dim")  # fields whose choices share nothing


def largest_of(space: Space) -> tuple[Arch, ...]:
    """Return, for each part, the Arch with the largest choice everywhere.

    Where choices have weights of their own it takes the official networks' one, or the first.
    """
    return tuple(space.build(part, _extreme(part, max)) for part in space.parts)


def smallest_of(space: Space) -> tuple[Arch, ...]:
    """Return of each part the Arch with the smallest choice everywhere; see `largest_of`."""
    return tuple(space.build(part, _extreme(part, min)) for part in space.parts)


def union_of(space: Space, part: Part) -> dict[str, Block]:
    """Return by name the largest block with weights that Archs of `part` have there."""
    union: dict[str, Block] = {}
    for arch in _covering(space, part):
        for block in blocks_of(arch):
            if block.kind not in WEIGHTLESS:
                union.setdefault(block.name, block)
    return union


def kernel_sizes_of(part: Part, block: Block) -> tuple[int, ...]:
    """Return the kernel sizes that a local block may have, largest first; () if it is of a head."""
    choices: tuple[Any, ...] = part.dimensions.get(f"{block.stage}.kernel_size", ())
    return tuple(sorted(choices, reverse=True)) if block.mid_channels else ()


def _extreme(part: Part, pick: Callable[..., Value]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name, choices in part.dimensions.items():
        field = name.rpartition(".")[2]
        if field in OWN_WEIGHTS:
            official = part.official(name)
            values[name] = official if official in choices else choices[0]
        elif field == "scales":
            values[name] = pick(choices, key=lambda scales: (len(scales), scales))
        else:
            values[name] = pick(choices)
    return values


def _covering(space: Space, part: Part) -> Iterator[Arch]:
    """Yield Archs of the largest sizes that hold every choice with weights of its own.

    They need not be in the space: there a head may go with smaller backbones alone.
    """
    values = _extreme(part, max) | _all_scales(part)
    values.pop("head.widths", None)
    heads, head_dims = _heads(space, part)
    own = _own_choices(part, head_dims)
    for index in range(max(len(heads), *map(len, own))):
        for choices in own:
            values |= choices[index % len(choices)]
        yield with_head(part.build(values, num_classes=1), heads[index % len(heads)])


def _all_scales(part: Part) -> dict[str, Value]:
    scales: dict[str, Any] = {n: c for n, c in part.dimensions.items() if n.endswith(".scales")}
    return {name: tuple(sorted(set().union(*choices))) for name, choices in scales.items()}


def _own_choices(part: Part, head_dims: tuple[Value, ...]) -> list[list[dict[str, Value]]]:
    """Return for each thing with weights of its own its choices as values of dimensions."""
    fixed = part.values(part.reference)
    own: list[list[dict[str, Value]]] = []
    for number in range(1, len(part.reference.stages) + 1):
        local, mixer, dim = (f"stage{number}.{field}" for field in OWN_WEIGHTS)
        locals_ = part.dimensions.get(local, (fixed[local],))
        mixers = part.dimensions.get(mixer, (fixed[mixer],))
        dims = part.dimensions.get(dim, head_dims if set(mixers) & set(HEADED) else (0,))
        own.append([{local: choice} for choice in locals_])
        own.append([{mixer: m, dim: d} for m, d in product(mixers, dims)])
    return own


def _heads(space: Space, part: Part) -> tuple[list[Head], tuple[Value, ...]]:
    """Return the heads that hold those of all Archs, and the head dims of all."""
    widths: Any = part.dimensions.get("head.widths")
    num_classes = space.num_classes
    names = _official_names(space, part) if space.dataset else []
    head_dims = tuple(dict.fromkeys(official_arch(name).stages[-1].head_dim for name in names))
    if widths:
        return [ClassificationHead(pair, num_classes or 1000) for pair in widths], head_dims
    heads = [heads_of(space.dataset or "")[name] for name in names]
    if num_classes is not None:
        heads = [
            replace(head, num_classes=num_classes)
            if isinstance(head, ClassificationHead | SegmentationHead)
            else head
            for head in heads
        ]
    if not isinstance(heads[0], ClassificationHead):
        heads = [_largest_head(heads)]
    return heads, head_dims


def _official_names(space: Space, part: Part) -> list[str]:
    """Return the official networks that may be nearest to an Arch of `part`, smallest first."""
    params = named_params(part.reference, space.dataset or "")
    names = sorted(params, key=lambda name: params[name])
    least, most = (_params_bound(part, pick) for pick in (min, max))
    reached = []
    for index, name in enumerate(names):
        below = names[index - 1] if index else None
        above = names[index + 1] if index + 1 < len(names) else None
        first = (params[below] + params[name]) / 2 if below else 0.0
        last = (params[name] + params[above]) / 2 if above else float("inf")
        if first <= most and least <= last:
            reached.append(name)
    return reached


def _params_bound(part: Part, pick: Callable[..., Value]) -> int:
    """Return the least or most parameters of a backbone: own weights add up by stage."""
    values = _extreme(part, pick)

    def params(name: str, choice: Value) -> int:
        arch = part.build(values | {name: choice}, 1)
        return params_at_head_dim_16(arch)

    for name, choices in part.dimensions.items():
        if name.rpartition(".")[2] in ("local", "mixer"):
            values[name] = pick(choices, key=lambda choice, name=name: params(name, choice))
    return params_at_head_dim_16(part.build(values, 1))


def _largest_head(heads: list[Head]) -> Head:
    """Return a dense head with the largest of all widths, depths and expand ratios."""
    largest = heads[-1]
    for field in ("width", "depth", "expand_ratio", "final_expand"):
        if hasattr(largest, field):
            most = max(getattr(head, field) for head in heads)
            largest = replace(largest, **{field: most})
    return largest
