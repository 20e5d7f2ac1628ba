"""How one block is timed: in a small network, by difference.

    latency(block) = T[lead -> block -> global pool] - T[lead -> global pool]

The lead is the end of an MBConv, [1x1 to m channels -> 1x1 to the block's input]: it gives the
block a realistic producer and memory layout, and memory that has been touched. In a network
each block works in the buffers that the one before it has left in the caches. A block whose
hidden tensor is the first to touch its memory took 18 % longer, at 48 x 48 and 384 channels, than
the same block in second place; hence m is the block's own number of hidden channels. The pool
is a nearly free end.

The first convolution of a network has nothing before it and is timed as [conv -> pool]. Along a
chain the pools cancel, that at the end of one difference and that at the start of the next, so
that a sum of differences holds exactly one, which is the network's own: the pool of a head is
counted there, and its own difference is 0.
"""

from dataclasses import dataclass, replace

from supernet.blocks import Block

Probe = tuple[Block, ...]  # a network, in the sense of `lut.builders.network`
LEAD_CHANNELS = 16  # of the picture that the lead reads
LEAD_EXPAND = 4  # of the lead, for a block without hidden channels


@dataclass(frozen=True, slots=True)
class Difference:
    """latency = time of `probe` - time of `baseline`, where there is one."""

    probe: Probe
    baseline: Probe | None


def difference_of(block: Block) -> Difference | None:
    """Return the two small networks that give the latency of `block`; None where it is 0."""
    block = key_of(block)
    if block.kind == "pool":
        return None
    if block.kind == "conv" and block.in_channels == 3:
        return Difference((block, _pool(block)), None)
    size = block.height, block.width
    if block.kind == "linear":
        lead = _conv("lead", LEAD_CHANNELS, block.in_channels, *size)
        chain = [lead, _pool(lead)]
        return Difference((*chain, replace(block, name="block")), tuple(chain))
    channels = block.out_channels if block.kind == "add" else block.in_channels
    hidden = block.mid_channels or LEAD_EXPAND * channels
    chain = [
        _conv("lead.0", LEAD_CHANNELS, hidden, *size),
        _conv("lead.1", hidden, channels, *size),
    ]
    if block.kind == "add":
        number = block.in_channels // block.out_channels
        chain += [_conv(f"branch{i}", channels, channels, *size) for i in range(1, number)]
        block = replace(block, inputs=tuple(range(1, 1 + number)))
    block = replace(block, name="block")
    return Difference((*chain, block, _pool(block)), (*chain, _pool(chain[-1])))


def key_of(block: Block) -> Block:
    """Return `block` without its place in a network, as tables list it."""
    return replace(block, inputs=(), name="")


def _conv(name: str, in_channels: int, out_channels: int, height: int, width: int) -> Block:
    return Block("conv", in_channels, out_channels, height, width, norm="none", name=name)


def _pool(before: Block) -> Block:
    channels = before.out_channels
    return Block("pool", channels, channels, *before.out_size, norm="none", name="pool")
