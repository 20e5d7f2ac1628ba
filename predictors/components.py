"""What the networks of a space are made of: blocks by place, and the choices that decide them.

Latency, MACs, parameters and most else are sums over blocks, and the blocks at one place of a
network follow from few choices: a stage's downsampling block from the resolution, two widths, a
kernel and an expand ratio. So any number of a network is a sum of entries of small tables, made
once for a space; `predictors.batch` adds them up for many networks at once:

    number of a network = sum over places of repeats * entry(choices of the place)
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.shape import canonical_stage, reference_of
from predictors.slots import (
    Blocks,
    Column,
    Slot,
    Sums,
    at_head_dim_16,
    begin_of_head,
    inputs_of,
    number_of,
    of_kind,
)
from predictors.worth import Array
from supernet.arch import Arch, ClassificationHead, Head, SegmentationHead, Stage, Stem, stage_of
from supernet.blocks import (
    IMAGE,
    Block,
    Place,
    blocks_of,
    downsampling_block,
    stage_blocks,
    stem_blocks,
)
from supernet.cost import cost_of, peaks_of
from supernet.official import heads_of, named_params, official_arch
from supernet.space import Part, Space, Value

Indices = NDArray[np.intp]
Chosen = Mapping[str, Any]  # choices by column
HEAD = "head"  # column: which of `PartComponents.heads`
NEAREST = "nearest"  # digits: the official network that head or head dims are taken from
PICTURE = -1  # among the numbers of stages; 0 is the stem
LOCAL = ("expand_ratio", "kernel_size", "local")
MIXER = ("mixer", "scales", "head_dim")


class SpaceComponents:
    """The components of all parts of a space."""

    def __init__(self, space: Space) -> None:
        """Lay out all parts. Raises SpaceError or ArchError where a network cannot be built."""
        self.space = space
        self.parts = tuple(PartComponents(space, part) for part in space.parts)
        # Of the last networks, as a search comes back to the best of them.
        self.decode: Callable[[tuple[int, ...]], Arch] = lru_cache(maxsize=10_000)(space.decode)


class PartComponents:
    """The places of one part of a space, and which choices follow from others."""

    def __init__(self, space: Space, part: Part) -> None:
        """Lay out all places. Raises SpaceError or ArchError where a network cannot be built."""
        self.space, self.part = space, part
        self.reference = space.build(part, {n: c[0] for n, c in part.dimensions.items()})
        num_stages = len(self.reference.stages)
        self.places = [Place(part.family, num_stages, n) for n in range(1, num_stages + 1)]
        self.official = named_params(self.reference, space.dataset) if space.dataset else {}
        self.heads = self._heads()
        self.columns = self._columns()
        self.slots = tuple(self._slots())

    @cached_property
    def repeats(self) -> dict[str, Indices]:
        """Return how often a block is repeated, by column and position of its choice."""
        depths: Any = self.columns
        counts = {"stem.depth": np.array(depths["stem.depth"], dtype=np.intp)}
        for place in self.places:
            name = f"stage{place.number}.depth"
            counts[name] = np.array([place.repeats(d) for d in depths[name]], dtype=np.intp)
        return counts

    @cached_property
    def follows(self) -> dict[str, Indices]:
        """Return the positions of choices that follow from the nearest official network.

        By column, then by the position of that network in `official`.
        """
        if not self.official:
            return {}
        found = {}
        if "head.widths" not in self.part.dimensions:
            found[HEAD] = np.arange(len(self.official))
        for name in self._nearest_head_dims():
            dims = [official_arch(o).stages[-1].head_dim for o in self.official]
            found[name] = np.array([self.columns[name].index(dim) for dim in dims])
        return found

    def column(self, number: Callable[[Block], float]) -> Column:
        """Return the sum of a number of each block, by slot and row."""
        return self.sums.of([number(block) for block in self.sums.blocks])

    @cached_property
    def sums(self) -> Sums:
        """Return what adds up numbers of the blocks, its `blocks`."""
        return Sums(self.slots)

    @cached_property
    def params(self) -> Column:
        """Return parameters."""
        return self.column(lambda block: cost_of(block).params)

    @cached_property
    def all_blocks(self) -> Column:
        """Return numbers of blocks of the network itself."""
        return self.column(lambda block: 1.0)

    @cached_property
    def all_macs(self) -> Column:
        """Return MACs of the network itself."""
        return self.column(lambda block: cost_of(block).macs)

    @cached_property
    def params_compared(self) -> Column:
        """Return the parameters by which the nearest official network is chosen; 0 in the head."""
        in_b = self.part.family == "b"
        column = self.column(lambda b: cost_of(at_head_dim_16(b) if in_b else b).params)
        own = zip(self.slots, column, strict=True)
        return Column(values * (slot.kind != "head") for slot, values in own)

    @cached_property
    def macs(self) -> Column:
        """Return MACs of the canonical network."""
        return self.sums.of_canonical([cost_of(block).macs for block in self.sums.all_blocks])

    @cached_property
    def num_blocks(self) -> Column:
        """Return numbers of blocks of the canonical network."""
        return self.sums.of_canonical([1.0] * len(self.sums.all_blocks))

    def peaks(self, number: int, rows: Indices) -> Array:
        """Return the most activations that are live in a block, without what is kept for the head.

        In elements of one image, of `rows` of slot `number`, which is none of the head: see
        `head_peak` for those. Each is found when it is first asked for.
        """
        slot, known = self.slots[number], self._peaks[number]
        if np.isnan(found := known[rows]).any():
            for row in np.unique(rows[np.isnan(found)]).tolist():
                known[row] = self._peak(slot, slot.rows[row])
            found = known[rows]
        return found

    @cached_property
    def _peaks(self) -> list[Array]:
        return [np.full(len(slot.rows), np.nan) for slot in self.slots]

    def _peak(self, slot: Slot, blocks: Blocks) -> float:
        reads = {"conv": PICTURE, "down": slot.number - 1}.get(slot.kind)
        keep = reads is not None and reads in self.tapped
        return float(max((peaks_of([block], keep_input=keep)[0] for block in blocks), default=0))

    @cached_property
    def kept(self) -> dict[int, Array]:
        """Return the elements that the head reads of a stage, by resolution and width.

        By the number of the stage, then (resolutions, widths); of PICTURE (resolutions, 1).
        """
        found = {}
        for number in self.tapped:
            widths: Any = (3,) if number == PICTURE else self.columns[width_column(number)]
            sizes: Any = self.columns["resolution"]
            areas = [math.prod(self.size(number, size)) for size in sizes]
            found[number] = np.outer(areas, widths).astype(np.float64)
        return found

    @cached_property
    def head_peaks(self) -> tuple[list[str], Array]:
        """Return which columns decide `head_peak`, and an array for its values, NaN at first."""
        columns = ["resolution", *(width_column(n) for n in self.tapped if n != PICTURE), HEAD]
        return columns, np.full([len(self.columns[name]) for name in columns], np.nan)

    def head_peak(self, chosen: Chosen) -> float:
        """Return the most activations that are live in the head, in elements of one image."""
        blocks = blocks_of(self.network(chosen))
        return float(max(peaks_of(blocks)[begin_of_head(blocks) :], default=0))

    @cached_property
    def tapped(self) -> tuple[int, ...]:
        """Return the numbers of the stages that the head reads, PICTURE included."""
        blocks = blocks_of(self.reference)
        begin = begin_of_head(blocks)
        read = {i for index in range(begin, len(blocks)) for i in inputs_of(blocks, index)}
        return tuple(
            sorted(PICTURE if i == IMAGE else number_of(blocks[i]) for i in read if i < begin)
        )

    def size(self, number: int, resolution: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) of the output of a stage, the stem, or of the picture."""
        height, width = resolution
        strides = [] if number == PICTURE else [self.reference.stem.stride, *[2] * number]
        for stride in strides:
            height, width = -(-height // stride), -(-width // stride)
        return height, width

    def network(self, chosen: Chosen) -> Arch:
        """Return a shallow network without attention, with the resolution, widths, head chosen."""
        stages = tuple(
            replace(stage, width=width, depth=1, mixer="none", scales=(), head_dim=0)
            for number, stage in enumerate(self.reference.stages, start=1)
            for width in [chosen.get(f"stage{number}.width", stage.width)]
        )
        stem = self.reference.stem
        return replace(
            self.reference,
            resolution=chosen["resolution"],
            stem=replace(stem, width=chosen.get("stem.width", stem.width)),
            stages=stages,
            head=self.heads[chosen[HEAD]],
        )

    def _heads(self) -> tuple[Head | None, ...]:
        classes = self.space.num_classes
        if (chosen := self.part.dimensions.get("head.widths")) is not None:
            widths: Any = chosen
            return tuple(ClassificationHead(own, classes or 1000) for own in widths)
        if not self.space.dataset:
            return (self.reference.head,)
        known = heads_of(self.space.dataset)
        heads = [known[name] for name in self.official]
        return tuple(
            replace(head, num_classes=classes)
            if classes is not None and isinstance(head, ClassificationHead | SegmentationHead)
            else head
            for head in heads
        )

    def _nearest_head_dims(self) -> list[str]:
        """Return the columns of head dims that are those of the nearest official network."""
        if self.part.family != "b" or not self.official:
            return []
        names = [f"stage{place.number}.head_dim" for place in self.places]
        return [name for name in names if name not in self.part.dimensions]

    def _columns(self) -> dict[str, tuple[Value, ...]]:
        """Return all choices by column, those that are fixed or follow from others included."""
        columns: dict[str, tuple[Value, ...]] = {
            name: (value,) for name, value in self.part.values(self.part.reference).items()
        }
        dims: list[Value] = sorted(
            {official_arch(name).stages[-1].head_dim for name in self.official}
        )
        columns |= {name: tuple(dims) for name in self._nearest_head_dims()}
        return columns | self.part.dimensions | {HEAD: tuple(range(len(self.heads)))}

    def _slots(self) -> Iterator[Slot]:
        yield self._stem("conv", "")
        yield self._stem("local", "stem.depth")
        for place in self.places:
            yield self._stage("down", place)
            yield self._stage("local", place)
            if place.number in self.reference.attention_stages:
                yield self._stage("mixer", place)
        if any(self.heads):
            for number in self.tapped:
                if number != PICTURE:
                    yield self._head(number)
            yield self._head(None)

    def choices(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield all choices of some columns, the last one fastest."""
        for values in product(*(self.columns[column] for column in columns)):
            yield dict(zip(columns, values, strict=True))

    def _slot(
        self,
        columns: Sequence[str],
        blocks_of_chosen: Callable[[Chosen], tuple[Blocks, Blocks]],
        number: int,
        kind: str,
        repeated_by: str = "",
    ) -> Slot:
        sizes = tuple(len(self.columns[column]) for column in columns)
        rows, canonicals = zip(*map(blocks_of_chosen, self.choices(columns)), strict=True)
        if all(row is own for row, own in zip(rows, canonicals, strict=True)):
            canonicals = rows
        return Slot(tuple(columns), sizes, rows, canonicals, number, kind, repeated_by)

    def _stem(self, kind: str, repeated_by: str) -> Slot:
        def made(chosen: Chosen) -> tuple[Blocks, Blocks]:
            stem = Stem(chosen["stem.width"], 1, self.reference.stem.stride)
            conv, local = stem_blocks(self.part.family, stem, chosen["resolution"])
            blocks = (local if repeated_by else conv,)
            return blocks, blocks

        return self._slot(("resolution", "stem.width"), made, 0, kind, repeated_by)

    def _stage(self, kind: str, place: Place) -> Slot:
        """Return the slot of a stage's `down` block, or of its repeated `local` or `mixer` ones."""
        prefix = f"stage{place.number}"
        names = ("width", *(MIXER if kind == "mixer" else LOCAL))
        own = [f"{prefix}.{name}" for name in names]
        before = [width_column(place.number - 1)] if kind == "down" else []
        official = reference_of(self.part.reference).stages[place.number - 1]
        fixed = {name: self.columns[f"{prefix}.{name}"][0] for name in Stage.__dataclass_fields__}
        fixed["depth"] = next(d for d in (1, 2) if place.repeats(d) == 1)
        if kind != "mixer":
            fixed["mixer"] = "none"

        resolutions: Any = self.columns["resolution"]
        sizes = {size: self.size(place.number - 1, size) for size in resolutions}

        @cache
        def stages(*values: Value) -> tuple[Stage, Stage]:
            fields = fixed | dict(zip(names, values, strict=True))
            stage = stage_of(*fields.values())
            return stage, canonical_stage(stage, official)

        def blocks(stage: Stage, chosen: Chosen) -> Blocks:
            size = sizes[chosen["resolution"]]
            if before:
                return (downsampling_block(place, stage, chosen[before[0]], size),)
            return of_kind(kind, stage_blocks(place, stage, stage.width, size))

        def made(chosen: Chosen) -> tuple[Blocks, Blocks]:
            stage, judged = stages(*[chosen[name] for name in own])
            found = blocks(stage, chosen)
            return found, found if judged == stage else blocks(judged, chosen)

        repeated_by = "" if kind == "down" else f"{prefix}.depth"
        return self._slot(["resolution", *before, *own], made, place.number, kind, repeated_by)

    def _head(self, number: int | None) -> Slot:
        """Return the slot of the blocks that read a stage; None: of all others of the head."""
        last = len(self.places)

        def made(chosen: Chosen) -> tuple[Blocks, Blocks]:
            blocks = blocks_of(self.network(chosen))
            begin = begin_of_head(blocks)
            found = []
            for index in range(begin, len(blocks)):
                first = inputs_of(blocks, index)[0]
                reads = number_of(blocks[first]) if IMAGE < first < begin else None
                if reads == number:
                    found.append(blocks[index])
            return tuple(found), ()

        before = [] if number is None else [width_column(number)]
        return self._slot(["resolution", *before, HEAD], made, last, "head")


def index_of(
    columns: Sequence[str], sizes: Sequence[int], digits: Mapping[str, Indices]
) -> Indices:
    """Return where networks are among all choices of columns, the last one fastest."""
    index = None
    for name, size in zip(columns, sizes, strict=True):
        if size > 1:
            index = digits[name] if index is None else index * size + digits[name]
    return np.zeros_like(digits[columns[0]]) if index is None else index


def width_column(number: int) -> str:
    """Return the column of the channels that a stage, or the stem, gives out."""
    return f"stage{number}.width" if number else "stem.width"
