"""Which part of a wide tensor a narrower network uses.

In front along every axis, the centre of a kernel, and of LiteMLA's projection the columns of
the scales that are kept.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from results.errors import ArchError
from supernet.blocks import Block
from supernet.layers.mixers import Axes
from supernet.model import module_of


@dataclass(frozen=True, slots=True)
class Slice:
    """What a narrower block uses of one tensor of a wider one, by the same name in both."""

    name: str
    shape: tuple[int, ...]  # of the narrower network's
    index: tuple[slice, ...] | None  # None: the whole tensor
    axes: tuple[int, ...] | None = None  # that `index` is along, where finer than the shape

    def of(self, wide: Tensor) -> Tensor:
        """Return a view, or a copy where no view has that shape.

        Gradients reach `wide` either way.
        """
        if self.index is None:
            return wide
        if self.axes is None:
            return wide[self.index]
        return wide.view(self.axes)[self.index].reshape(self.shape)

    def put(self, wide: Tensor, values: Tensor) -> None:
        """Write `values` where `of` reads."""
        part = wide.detach()
        if self.index is not None:
            part = (part if self.axes is None else part.view(self.axes))[self.index]
        part.copy_(values.reshape(part.shape))


@lru_cache(maxsize=1 << 14)
def slices_of(wide: Block, narrow: Block) -> tuple[Slice, ...]:
    """Return what the module of `narrow` uses of every tensor of that of `wide`, in order.

    Raises ArchError where a tensor is no part of the other.
    """
    have, want = _axes_of(wide), _axes_of(narrow)
    if not want.keys() <= have.keys() or not all(_fits(have[n], axes) for n, axes in want.items()):
        raise ArchError(
            f"{narrow.describe()} is no part of {wide.describe()}: where leading channels are no "
            "narrower module, it tells its `axes`, as LiteMLA does in supernet/layers/mixers.py"
        )
    return tuple(_slice(name, have[name], axes) for name, axes in want.items())


def centre(kernel: Tensor, size: int) -> Tensor:
    """Return the middle of kernels, (..., K, K) -> (..., size, size)."""
    start = (kernel.shape[-1] - size) // 2
    return kernel[..., start : start + size, start : start + size]


@lru_cache(maxsize=1 << 14)
def _axes_of(block: Block) -> dict[str, Axes]:
    """Return the shape of every tensor, or the finer axes that its module tells."""
    with torch.device("meta"):
        module = module_of(block, 1e-5)
    axes_by_name: dict[str, Axes] = {n: tuple(t.shape) for n, t in module.state_dict().items()}
    for prefix, child in module.named_modules():
        finer: dict[str, Axes] = getattr(child, "axes", {})
        axes_by_name |= {f"{prefix}.{name}".lstrip("."): axes for name, axes in finer.items()}
    return axes_by_name


def _fits(have: Axes, want: Axes) -> bool:
    """Tell whether a tensor of axes `want` can be a part of one of axes `have`."""
    return len(have) == len(want) and all(
        set(w) <= set(h)
        if isinstance(h, tuple) and isinstance(w, tuple)
        else isinstance(h, int) and isinstance(w, int) and w <= h
        for h, w in zip(have, want, strict=True)
    )


def _slice(name: str, have: Axes, want: Axes) -> Slice:
    shape = _shape(want)
    if have == want:
        return Slice(name, shape, None)
    index = tuple(
        _part(h, w, is_kernel=len(have) > 3 and dim >= len(have) - 2)
        for dim, (h, w) in enumerate(zip(have, want, strict=True))
    )
    sizes = tuple(len(axis) if isinstance(axis, tuple) else axis for axis in have)
    return Slice(name, shape, index, sizes if len(sizes) != len(shape) else None)


def _part(have: int | tuple[int, ...], want: int | tuple[int, ...], *, is_kernel: bool) -> slice:
    if isinstance(have, tuple) and isinstance(want, tuple):
        at = [have.index(label) for label in want]
        steps = {b - a for a, b in pairwise(at)} or {1}
        assert len(steps) == 1, f"{want} is no slice of {have}"
        return slice(at[0], at[-1] + 1, steps.pop())
    assert isinstance(have, int)
    assert isinstance(want, int)
    if want == have:
        return slice(None)  # costs nothing
    start = (have - want) // 2 if is_kernel else 0
    return slice(start, start + want)


def _shape(axes: Axes) -> tuple[int, ...]:
    """Return the tensor's own shape: an axis of labels and the one after it are one."""
    shape: list[int] = []
    times = 1
    for axis in axes:
        if isinstance(axis, tuple):
            times = len(axis)
        else:
            shape.append(times * axis)
            times = 1
    return tuple(shape)
