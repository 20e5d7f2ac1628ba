"""What is timed together: the blocks of a chunk with their baselines, and reference networks."""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from lut.measuring.probes import Probe, difference_of, key_of
from lut.rows import check_block
from lut.runtimes.session import Model
from results.errors import RunError
from results.reading import as_kind
from supernet.arch import Arch
from supernet.blocks import Block, blocks_of
from supernet.cost import BYTES, network_cost, peak_activations
from supernet.space import Part, Space
from supernet.spaces import official_networks

MOST_MODELS = 700
MOST_BYTES = 7e9  # of models loaded at once
MOST_SHARE = 0.5  # of a machine's memory
SESSION_BYTES = 8e6  # of a loaded model without its weights and activations
REFERENCES = 2  # copies of each reference network
LARGE = 2e9  # MACs of a reference that takes time in every chunk, three times the least apart
SAMPLED = 300  # networks sampled to see what a space computes
BASELINES = 3  # copies of each: many blocks share one, and the luck of its place in memory
BLOCKS, TERMS, NETWORKS = "blocks", "terms", "networks"  # what a chunk is for
_FIELDS = [field.name for field in fields(Block) if field.compare]


@dataclass(frozen=True)
class Chunk:
    """Blocks, or networks for the network terms, or to validate on; references beside them."""

    number: int
    role: str  # BLOCKS, TERMS or NETWORKS
    content: tuple[Any, ...]  # Blocks or Archs
    references: tuple[Arch, ...]

    def models(self) -> list[Model]:
        """Return references, then baselines and probes, or networks; each is loaded by itself."""
        models = [network_model(arch) for arch in self.references] * REFERENCES
        if self.role != BLOCKS:
            return models + [network_model(arch) for arch in self.content]
        differences = [d for block in self.content if (d := difference_of(block))]
        baselines = dict.fromkeys(d.baseline for d in differences if d.baseline)
        models += [Model(baseline) for baseline in baselines] * BASELINES
        return models + [Model(probe) for probe in dict.fromkeys(d.probe for d in differences)]

    def to_line(self) -> dict[str, Any]:
        """Return the journal's line that begins the chunk."""
        content: list[Any] = [
            item.to_dict() if isinstance(item, Arch) else block_to_list(item)
            for item in self.content
        ]
        return {"chunk": self.number, "role": self.role, "content": content}

    @classmethod
    def from_line(cls, line: dict[str, Any], references: Sequence[Arch]) -> "Chunk":
        """Return the chunk of a `to_line`. Raises UserError for what are no blocks or networks."""
        content: tuple[Any, ...]
        if line["role"] == BLOCKS:
            content = tuple(block_from_list(item) for item in line["content"])
        else:
            listed = as_kind(line["content"], list[dict[str, Any]], "networks")
            content = tuple(Arch.from_dict(item) for item in listed)
        return cls(line["chunk"], line["role"], content, tuple(references))


def network_model(arch: Arch) -> Model:
    """Return a whole network as what a session times."""
    return Model(blocks_of(arch), eps=arch.norm_eps)


def block_to_list(block: Block) -> list[Any]:
    """Return the fields of a block that tables list it by."""
    return [getattr(block, name) for name in _FIELDS]


def block_from_list(values: Any) -> Block:
    """Return the block of a `block_to_list`. Raises UserError for what is no block."""
    values = as_kind(values, list[Any], "a block")
    if len(values) != len(_FIELDS):
        raise RunError(f"a block has {len(_FIELDS)} values, not {len(values)}")
    block = as_kind(dict(zip(_FIELDS, values, strict=True)), Block, "a block")
    check_block(block, "a block")
    return block


def references_of(space: Space, count: int = 6) -> tuple[Arch, ...]:
    """Return official networks that every chunk times, spread over what the space computes.

    A machine can be slower for small networks, which wait for memory, while it is not for
    large ones; so the scale of a session is to come from networks like those of the space.
    """
    references: list[Arch] = []
    each = max(2, count // len(space.parts))
    for part in space.parts:
        rng = random.Random(0)
        some = [replace(space, parts=(part,)).sample(rng) for _ in range(SAMPLED)]
        macs = sorted(network_cost(blocks_of(arch)).macs for arch in some)
        least = macs[len(macs) // 100]
        most = min(macs[len(macs) * 3 // 4], max(3 * least, LARGE))
        low, high = math.log(least), math.log(most)
        sizes: Any = sorted(part.dimensions["resolution"])
        left = _official(space, part, sizes, most_names=3)  # the largest takes much memory
        for number in range(min(each, len(left))):
            wanted = low + (high - low) * number / (each - 1)
            nearest = min(left, key=lambda a, wanted=wanted: abs(_log_macs(a) - wanted))  # type: ignore[misc]
            left.remove(nearest)
            references.append(nearest)
    return tuple(references)


def _log_macs(arch: Arch) -> float:
    return math.log(network_cost(blocks_of(arch)).macs)


def wide_references_of(space: Space) -> tuple[Arch, ...]:
    """Return all official networks at three resolutions, from the cheapest to the dearest."""
    references: list[Arch] = []
    for part in space.parts:
        sizes: Any = sorted(part.dimensions["resolution"])
        references += _official(space, part, (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
    return tuple(references)


def _official(
    space: Space,
    part: Part,
    resolutions: Sequence[tuple[int, int]],
    most_names: int | None = None,
) -> list[Arch]:
    """Return the official networks of a part's family, fewest MACs first."""
    archs = official_networks(part, space.dataset or "imagenet", resolutions, most_names)
    return sorted(archs, key=lambda arch: network_cost(blocks_of(arch)).macs)


def split(
    blocks: Iterable[Block],
    precision: str,
    *,
    batch: int = 1,
    seed: int,
    most: int = MOST_MODELS,
    most_bytes: float = MOST_BYTES,
) -> list[list[Block]]:
    """Return chunks of at most `most` models that fit into memory together.

    Blocks of one input shape share a baseline and stay together; shapes are dealt out at
    random, so that a disturbance of one chunk meets no particular kind of block.
    """
    groups: dict[Probe | None, list[Block]] = {}
    for block in blocks:
        difference = difference_of(block)
        groups.setdefault(difference.baseline if difference else None, []).append(block)
    ordered = list(groups.items())
    random.Random(seed).shuffle(ordered)
    total = sum(len(group) for group in groups.values()) + BASELINES * len(groups)
    # chunks of about one size, with room for groups that do not fill them
    most = min(most, math.ceil(1.1 * total / max(1, math.ceil(total / most))))
    chunks: list[list[Block]] = []
    room, memory = 0.0, 0.0
    for baseline, group in ordered:
        own = model_bytes(baseline, precision, batch) if baseline else 0.0
        fresh = True
        for block in group:
            difference = difference_of(block)
            size = model_bytes(difference.probe, precision, batch) if difference else 0.0
            needed, weight = (1 + BASELINES, size + BASELINES * own) if fresh else (1, size)
            if not chunks or room < needed or memory < weight:
                chunks.append([])
                room, memory = most, most_bytes
                needed, weight = 1 + BASELINES, size + BASELINES * own
            chunks[-1].append(block)
            room, memory, fresh = room - needed, memory - weight, False
    return chunks


def model_bytes(blocks: Sequence[Block], precision: str, batch: int) -> float:
    """Return the bytes of a loaded model, about: weights twice, as packed, and activations."""
    size = BYTES[precision]
    weights = network_cost(blocks).params
    return SESSION_BYTES + size * (2 * weights + 1.5 * batch * peak_activations(blocks))


def distinct(blocks: Iterable[Block]) -> list[Block]:
    """Return every block once, as tables list it."""
    return list(dict.fromkeys(key_of(block) for block in blocks))
