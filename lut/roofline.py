"""A physical model of a block's latency, with few parameters: what a calibration fits.

An operator takes the longer of two times, smoothly joined, and a launch:

    arithmetic = MACs / rate        memory = bytes / bandwidth

    op = (arithmetic^4 + memory^4)^(1/4) + launch

Four things are added to the textbook roofline, each because a class of devices needs it:

- Depthwise convolutions and products of two activations (attention) have rates of their own.
- A product of two activations with few results (LiteMLA's V K^T has head_dim x head_dim per
  head, each a sum over all tokens) keeps only some of the cores busy. It counts as if it had
  `product_grain` results more per launch, which is the time of its serial sums.
- A product moves its operands more than once where the runtime keeps convolutions in a
  blocked layout and must copy (TensorRT's reformatting).
- Bytes that stay in a cache cost nothing: of an operator that moves w bytes, the share
  w / (w + cache) comes from memory.

Every term grows with channels, tokens and kernel size, so a larger block is never cheaper.

Source of the base: Williams et al., Roofline, CACM 2009, https://doi.org/10.1145/1498765.1498785
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from results.errors import TableError, reason_of
from supernet.blocks import Block
from supernet.cost import BYTES, ops_of

Array = npt.NDArray[np.float64]
_PRODUCTS = ("matmul", "fft", "scan")


@dataclass(frozen=True, slots=True)
class Roofline:
    """Parameters of one device with one runtime and precision."""

    conv_gmacs_per_s: float  # dense, pointwise and grouped convolutions, linear layers
    macs_per_byte: float  # rate / bandwidth: the ridge between arithmetic and memory
    depthwise_speed: float = 1.0  # relative to conv_gmacs_per_s
    product_speed: float = 1.0  # of two activations; relative to conv_gmacs_per_s
    product_grain: float = 0.0  # results of a product that the device works on at once
    product_passes: float = 1.0  # of memory traffic; 3 with a copy into another layout
    cache_mb: float = 0.0
    launch_us: float = 1.0  # per operator

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = {"product_passes": 1.0}.get(field.name, 0.0)
            zero = field.name in ("product_grain", "cache_mb")
            if not least <= value < float("inf") or (value == 0 and not zero):
                raise TableError(f"roofline: {field.name} cannot be {value!r}")

    @property
    def bandwidth_gb_s(self) -> float:
        """Return the bandwidth of memory in GB/s."""
        return self.conv_gmacs_per_s / self.macs_per_byte

    def block_ms(self, block: Block, batch: int, precision: str) -> float:
        """Return milliseconds per image of a block at a batch, finite and positive for all."""
        return _block_ms(self, block, batch, precision)

    def blocks_ms(self, blocks: Sequence[Block], batch: int, precision: str) -> list[float]:
        """Return `block_ms` of many blocks, in a tenth of the time."""
        ms = self.ops_ms(OpArrays.of(blocks), float(batch), precision)
        ends = list(accumulate((len(ops_of(block)) for block in blocks), initial=0))
        return [float(ms[begin:end].sum()) for begin, end in pairwise(ends)]

    def ops_ms(self, ops: "OpArrays", batch: Array | float, precision: str) -> Array:
        """Return (ops,) milliseconds per image; `batch` is a number or has one entry per op."""
        products = ops.product_depth * (ops.product_results + self.product_grain / batch)
        macs = ops.conv_macs + ops.depthwise_macs / self.depthwise_speed
        macs = macs + products / self.product_speed
        arithmetic = macs / (self.conv_gmacs_per_s * 1e6)
        elements = ops.moved + (self.product_passes - 1) * ops.product_moved + ops.weights / batch
        moved = elements * BYTES[precision]
        if self.cache_mb:
            moved = moved * moved / (moved + self.cache_mb * 1e6 / batch)
        memory = moved / (self.bandwidth_gb_s * 1e6)
        longer: Array = np.sqrt(np.hypot(arithmetic * arithmetic, memory * memory))
        return longer + self.launch_us * 1e-3 / batch

    def to_dict(self) -> dict[str, float]:
        """Return the parameters by name, for a sidecar."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, float]) -> "Roofline":
        """Read what `to_dict` gives. Raises TableError."""
        try:
            return cls(**{name: float(value) for name, value in data.items()})
        except (TypeError, ValueError) as error:
            raise TableError(f"bad roofline parameters: {reason_of(error)}") from None


@dataclass(frozen=True, slots=True)
class OpArrays:
    """What the model needs to know of operators, for one image; each field is (ops,)."""

    conv_macs: Array
    depthwise_macs: Array
    product_depth: Array  # MACs per result of a product
    product_results: Array
    product_moved: Array  # the part of `moved` in products
    moved: Array  # activations read and written, elements
    weights: Array  # elements, read once per batch

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> "OpArrays":
        """Make the arrays of all operators of the blocks, in order."""
        rows = []
        for block in blocks:
            for op in ops_of(block):
                product = op.kind in _PRODUCTS
                depthwise = op.kind == "depthwise"
                rows.append(
                    (
                        0 if product or depthwise else op.macs,
                        op.macs if depthwise else 0,
                        op.macs / op.out_elements if product else 0,
                        op.out_elements if product else 0,
                        op.in_elements + op.out_elements if product else 0,
                        op.in_elements + op.out_elements,
                        op.params,
                    )
                )
        return cls(*np.array(rows, dtype=np.float64).T)


@lru_cache(maxsize=1 << 17)
def _block_ms(roofline: Roofline, block: Block, batch: int, precision: str) -> float:
    return float(roofline.ops_ms(OpArrays.of([block]), float(batch), precision).sum())
