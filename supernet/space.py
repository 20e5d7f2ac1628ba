"""Search spaces: which choices there are, and Archs as vectors of genes.

A space is a union of parts, one for each family. A part is a product of dimensions
(`stage3.width` → 64, 96, …); the genes of the union are those of all parts by name, so that
a crossover between families keeps what they share. Where parts have a different number of
choices, a gene counts in the longest list and is scaled to the shorter one, in order.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import product
from operator import attrgetter
from typing import Any

from results.errors import SpaceError, nearest
from supernet.arch import (
    Arch,
    ClassificationHead,
    Family,
    Stage,
    Stem,
    Task,
    canonical,
    format_resolution,
    stage_of,
)
from supernet.official import with_head, with_nearest_head

Value = int | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Freeze:
    """One `--freeze`: a dimension and the only values that it keeps, as `format_value` writes."""

    dimension: str
    values: tuple[str, ...]
    text: str  # as it was given

    @classmethod
    def parse(cls, text: str) -> "Freeze":
        """Read `resolution=128,160`. Raises SpaceError."""
        dimension, _, listed = text.partition("=")
        values = tuple(value.strip() for value in listed.split(",") if value.strip())
        if not values:
            raise SpaceError(f"--freeze {text!r} is not DIMENSION=VALUE[,VALUE...]")
        return cls(dimension.strip(), values, text)


@dataclass(frozen=True, slots=True)
class SpaceSpec:
    """What is asked of a space: enough to make it again, see `supernet.spaces.make_space`."""

    name: str
    task: Task = "classification"
    dataset: str | None = None  # None: the task's first
    freeze: tuple[Freeze, ...] = ()
    nearest_head: bool = True
    num_classes: int | None = None  # None: the data set's
    resolutions: tuple[tuple[int, int], ...] = ()  # instead of the space's own; (): those

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a supernet's file has them."""
        fields = asdict(self) | {"freeze": [freeze.text for freeze in self.freeze]}
        sizes = [format_resolution(size) for size in fields.pop("resolutions")]
        return fields | ({"resolutions": sizes} if sizes else {})


@dataclass(frozen=True)
class Part:
    """The dimensions of one family; `reference` is its official network that fixes the rest."""

    name: str  # b, l, or xl for SAM-XL's five stages
    reference: Arch
    dimensions: dict[str, tuple[Value, ...]]

    @property
    def family(self) -> Family:
        """Return the family of all its Archs."""
        return self.reference.family

    def official(self, dimension: str) -> Value:
        """Return the value that the family's official networks have."""
        return self.values(self.reference)[dimension]

    def values(self, arch: Arch) -> dict[str, Value]:
        """Return every dimension's value in `arch`, those that are not searched included."""
        values: dict[str, Value] = {
            "resolution": arch.resolution,
            "stem.width": arch.stem.width,
            "stem.depth": arch.stem.depth,
        }
        for names, stage in zip(_stage_dimensions(len(arch.stages)), arch.stages, strict=True):
            values |= zip(names, _fields_of(stage), strict=True)
        if isinstance(arch.head, ClassificationHead):
            values["head.widths"] = arch.head.widths
        return values

    def build(self, values: dict[str, Value], num_classes: int) -> Arch:
        """Return the Arch with these values, canonical where one makes another meaningless."""
        chosen: dict[str, Any] = self._fixed | values
        dimensions = _stage_dimensions(len(self.reference.stages))
        stages = [stage_of(*[chosen[name] for name in names]) for names in dimensions]
        widths = chosen.get("head.widths")
        return Arch(
            family=self.family,
            resolution=chosen["resolution"],
            stem=Stem(chosen["stem.width"], chosen["stem.depth"]),
            stages=tuple(stages),
            head=ClassificationHead(widths, num_classes) if widths else None,
        )

    @cached_property
    def _fixed(self) -> dict[str, Value]:
        return self.values(self.reference)

    @property
    def size(self) -> int:
        """Return the number of distinct Archs, exactly: distinct Stages multiply."""
        groups: dict[str, list[str]] = {}
        for name in self.dimensions:
            groups.setdefault(name.partition(".")[0], []).append(name)
        total = 1
        for group, names in groups.items():
            if group.startswith("stage"):
                total *= self._distinct_stages(group, names)
            else:
                total *= math.prod(len(self.dimensions[name]) for name in names)
        return total

    def _distinct_stages(self, group: str, names: list[str]) -> int:
        reference: dict[str, Any] = {
            name.partition(".")[2]: value
            for name, value in self.values(self.reference).items()
            if name.startswith(f"{group}.")
        }
        choices = {name.partition(".")[2]: self.dimensions[name] for name in names}
        # Only these decide each other's meaning; the others multiply.
        entangled = ("local", "expand_ratio", "mixer", "scales", "head_dim")
        bound = [name for name in choices if name in entangled]
        distinct = {
            tuple(canonical(reference | dict(zip(bound, values, strict=True))).values())
            for values in product(*(choices[name] for name in bound))
        }
        free = (len(values) for name, values in choices.items() if name not in bound)
        return len(distinct) * math.prod(free)


@dataclass(frozen=True)
class Space:
    """A set of Archs that can be counted, sampled, encoded as genes and narrowed.

    `dataset` names where the head comes from: None searches `head.widths` (and head dims);
    otherwise every Arch gets the head (and head dim) of the official network nearest to it,
    but for those that are dimensions of the part.
    """

    name: str
    parts: tuple[Part, ...]
    dataset: str | None = None
    num_classes: int | None = None
    spec: SpaceSpec | None = field(default=None, compare=False)  # None: narrowed otherwise

    @property
    def size(self) -> int:
        """Return the number of distinct Archs."""
        return sum(part.size for part in self.parts)

    @cached_property
    def genes(self) -> dict[str, int]:
        """Return the number of choices by gene, in the order of `encode` and `decode`."""
        genes = {"family": len(self.parts)} if len(self.parts) > 1 else {}
        for part in self.parts:
            for name, choices in part.dimensions.items():
                genes[name] = max(genes.get(name, 0), len(choices))
        return genes

    @property
    def resolutions(self) -> list[tuple[int, int]]:
        """Return all (height, width), smallest first."""
        sizes: Any = {value for part in self.parts for value in part.dimensions["resolution"]}
        return sorted(sizes)

    def decode(self, genes: Sequence[int]) -> Arch:
        """Return the Arch of a vector of genes, each from 0 to its number of choices - 1."""
        chosen = dict(zip(self.genes, genes, strict=True))
        part = self.parts[chosen.get("family", 0)]
        values = {
            name: choices[chosen[name] * len(choices) // self.genes[name]]
            for name, choices in part.dimensions.items()
        }
        return self.build(part, values)

    def encode(self, arch: Arch) -> tuple[int, ...]:
        """Return the genes of `arch`: decode(encode(arch)) == arch.

        Raises SpaceError, naming the dimension, if `arch` is outside the space.
        """
        position, part = self.part_of(arch)
        counts = self.genes
        genes = dict.fromkeys(counts, 0)
        if "family" in genes:
            genes["family"] = position
        chosen = self._chosen(part, arch)
        for name, choices in part.dimensions.items():
            position = choices.index(chosen[name])
            genes[name] = -(-position * counts[name] // len(choices))
        if self.build(part, chosen) != arch:
            raise SpaceError(f"{arch.describe()} differs from space {self.name} in a fixed choice")
        return tuple(genes.values())

    def __contains__(self, arch: Arch) -> bool:
        try:
            self.encode(arch)
        except SpaceError:
            return False
        return True

    def sample(self, rng: random.Random) -> Arch:
        """Draw a part, then every dimension, uniformly."""
        part = rng.choice(self.parts)
        return self.build(part, {n: rng.choice(c) for n, c in part.dimensions.items()})

    def neighbours(self, arch: Arch) -> Iterator[Arch]:
        """Yield all distinct Archs of the same part that differ from `arch` in one dimension."""
        _, part = self.part_of(arch)
        values = self._chosen(part, arch)
        seen = {arch}
        for name, choices in part.dimensions.items():
            for choice in choices:
                neighbour = self.build(part, values | {name: choice})
                if neighbour not in seen:
                    seen.add(neighbour)
                    yield neighbour

    def enumerate(self) -> Iterator[Arch]:
        """Yield every distinct Arch; for small spaces."""
        seen: set[Arch] = set()
        for part in self.parts:
            for values in product(*part.dimensions.values()):
                arch = self.build(part, dict(zip(part.dimensions, values, strict=True)))
                if arch not in seen:
                    seen.add(arch)
                    yield arch

    def extremes(self) -> Iterator[Arch]:
        """Yield the Archs of first and of last choices in all dimensions, for each part."""
        for part in self.parts:
            for index in (0, -1):
                yield self.build(part, {n: c[index] for n, c in part.dimensions.items()})

    def freeze(self, settings: Sequence[str]) -> "Space":
        """Keep only the named values: `resolution=128,160`, `stage3.mixer=relu_linear`.

        A part that is left without a choice is dropped. Raises SpaceError for an unknown
        dimension, and for a value that no part is left with.
        """
        return self.keep(tuple(map(Freeze.parse, settings)))

    def keep(self, freezes: tuple[Freeze, ...]) -> "Space":
        """Keep only the values of `freezes`, like `freeze`."""
        space = self
        for freeze in freezes:
            space = space._narrow(freeze)
        if self.spec is None:
            return space
        return replace(space, spec=replace(self.spec, freeze=(*self.spec.freeze, *freezes)))

    def at_resolutions(self, sizes: Iterable[tuple[int, int]]) -> "Space":
        """Return the same Archs at other resolutions, (height, width), in every part these alone.

        Frozen resolutions do not count any more; later ones narrow the new.
        """
        choices = tuple(sorted(set(sizes)))
        if not choices:
            raise SpaceError(f"space {self.name} needs a resolution")
        own = {"resolution": choices}
        parts = tuple(replace(p, dimensions=p.dimensions | own) for p in self.parts)
        space = replace(self, parts=parts)
        if self.spec is None:
            return space
        kept = tuple(freeze for freeze in self.spec.freeze if freeze.dimension != "resolution")
        return replace(space, spec=replace(self.spec, freeze=kept, resolutions=choices))

    def to_dict(self) -> dict[str, Any]:
        """Return every dimension with its choices, for a run's record."""
        return {
            "name": self.name,
            "size": self.size,
            "dataset": self.dataset,
            "parts": {
                part.name: {n: [format_value(n, v) for v in c] for n, c in part.dimensions.items()}
                for part in self.parts
            },
        }

    def build(self, part: Part, values: dict[str, Value]) -> Arch:
        """Return the Arch with these values, its head by the rule of the space."""
        arch = part.build(values, self.num_classes or 1000)
        if not self.dataset:
            return arch
        arch = with_nearest_head(arch, self.dataset, self.num_classes)
        chosen = {name: value for name, value in values.items() if of_head(name)}
        if not chosen:
            return arch
        own = part.build(part.values(arch) | chosen, self.num_classes or 1000)
        return own if "head.widths" in chosen else with_head(own, arch.head)

    def _chosen(self, part: Part, arch: Arch) -> dict[str, Value]:
        """Return the choice of every dimension; the first where another choice decides it."""
        values = part.values(arch)
        chosen: dict[str, Value] = {}
        for name, choices in part.dimensions.items():
            value = values.get(name, choices[0])
            if value not in choices:
                if not _meaningless(name, values):
                    raise SpaceError(
                        f"{name}={format_value(name, value)} is not in space {self.name} "
                        f"(choose from {', '.join(format_value(name, c) for c in choices)})"
                    )
                value = choices[0]
            chosen[name] = value
        return chosen

    def part_of(self, arch: Arch) -> tuple[int, Part]:
        """Return position and part of the stages of `arch`. Raises SpaceError if there is none."""
        for position, part in enumerate(self.parts):
            same_stages = len(arch.stages) == len(part.reference.stages)
            if arch.family == part.family and same_stages:
                return position, part
        raise SpaceError(
            f"space {self.name} has no arch of family {arch.family} with {len(arch.stages)} stages"
        )

    def _narrow(self, freeze: Freeze) -> "Space":
        name, wanted = freeze.dimension, freeze.values
        if name == "family":
            _check_wanted(name, wanted, [part.name for part in self.parts])
            return replace(self, parts=tuple(p for p in self.parts if p.name in wanted))
        if name not in self.genes:
            raise SpaceError(
                f"space {self.name} has no dimension {name!r}{nearest(name, self.genes)}"
            )
        choices = [format_value(name, v) for p in self.parts for v in p.dimensions.get(name, ())]
        _check_wanted(name, wanted, list(dict.fromkeys(choices)))
        parts = []
        for part in self.parts:
            if name in part.dimensions:
                kept = tuple(c for c in part.dimensions[name] if format_value(name, c) in wanted)
                part = replace(part, dimensions=part.dimensions | {name: kept})
            if all(part.dimensions.values()):
                parts.append(part)
        return replace(self, parts=tuple(parts))


_fields_of = attrgetter(*Stage.__dataclass_fields__)


@lru_cache
def _stage_dimensions(num_stages: int) -> tuple[tuple[str, ...], ...]:
    """Return the names of the fields of each stage: stage1.width."""
    numbers = range(1, num_stages + 1)
    return tuple(tuple(f"stage{n}.{name}" for name in Stage.__dataclass_fields__) for n in numbers)


def format_value(name: str, value: Any) -> str:
    """Return a value as `--freeze` has it: 224 or 1024x2048, relu_linear, 3+5, none for ()."""
    if name == "resolution":
        return format_resolution(value)
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    return str(value)


def _check_wanted(name: str, wanted: Sequence[str], choices: list[str]) -> None:
    for value in wanted:
        if value not in choices:
            raise SpaceError(f"{name}={value} is no choice{nearest(value, choices)}")


def _meaningless(name: str, values: dict[str, Value]) -> bool:
    """Tell whether a canonical value stands at `name` because another choice decides it."""
    group, _, field = name.partition(".")
    if not group.startswith("stage"):
        return False
    stage = {f: values[f"{group}.{f}"] for f in Stage.__dataclass_fields__}
    marked = stage | {field: object()}
    return bool(canonical(marked)[field] == stage[field])


def of_head(name: str) -> bool:
    """Tell whether a dimension goes with the head of the nearest official network."""
    return name == "head.widths" or name.endswith(".head_dim")
