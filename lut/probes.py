"""How one block is timed: in a small network, by difference.

    latency(block) = T[1x1 conv -> block -> global pool] - T[1x1 conv -> global pool]

The convolution gives the block a realistic producer and memory layout, the pool a nearly free
end. The first convolution of a network has nothing before it and is timed as [conv -> pool].
Along a chain the pools cancel, that at the end of one difference and that at the start of the
next, so that a sum of differences holds exactly one, which is the network's own: the pool of a
head is counted there, and its own difference is 0.
"""

from dataclasses import dataclass, replace

from supernet.blocks import Block

Probe = tuple[Block, ...]  # a network, in the sense of `lut.builders.network`
LEAD_CHANNELS = 16  # of the picture that the leading convolution reads


@dataclass(frozen=True, slots=True)
class Difference:
    """latency = time of `probe` - time of `baseline`, where there is one."""

    probe: Probe
    baseline: Probe | None


def difference_of(block: Block) -> Difference | None:
    """The two small networks that give the latency of `block`; None where it is 0."""
    block = key_of(block)
    if block.kind == "pool":
        return None
    if block.kind == "conv" and block.in_channels == 3:
        return Difference((block, _pool(block)), None)
    channels = block.out_channels if block.kind == "add" else block.in_channels
    lead = _named(_conv(LEAD_CHANNELS, channels, block.height, block.width), "lead")
    chain = [lead]
    if block.kind == "linear":
        chain.append(_pool(lead))
        return Difference((*chain, _named(block, "block")), tuple(chain))
    if block.kind == "add":
        number = block.in_channels // block.out_channels
        conv = _conv(channels, channels, block.height, block.width)
        chain += [_named(conv, f"branch{i}") for i in range(1, number)]
        block = replace(block, inputs=tuple(range(number)))
    last = chain[-1]
    return Difference((*chain, _named(block, "block"), _pool(block)), (*chain, _pool(last)))


def key_of(block: Block) -> Block:
    """`block` without its place in a network, as tables list it."""
    return replace(block, inputs=(), name="")


def _conv(in_channels: int, out_channels: int, height: int, width: int) -> Block:
    return Block("conv", in_channels, out_channels, height, width, norm="none")


def _pool(before: Block) -> Block:
    channels = before.out_channels
    return Block("pool", channels, channels, *before.out_size, norm="none", name="pool")


def _named(block: Block, name: str) -> Block:
    return replace(block, name=name)
