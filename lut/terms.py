"""What a network costs beyond the sum of its blocks: `lut.table` reads it, calibrations fit it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from results.errors import TableError, reason_of
from supernet.blocks import Block
from supernet.cost import network_cost, peak_activations

HOST_BYTES = 4  # pictures and results cross to the device as fp32, whatever it computes in


Number = Any  # a number, or an array of them


@dataclass(frozen=True, slots=True)
class NetworkTerms:
    """network = (fixed_ms + ms_per_m_params * parameters) / batch + ms_per_mb * transferred MB
    + ms_per_peak_mb * peak activations + scale * sum of blocks.

    All of one image. Parameters, in millions, are read once for a batch; they and the peak of
    live activations (MB of 1e6 bytes, fp32) are what blocks timed one by one tell too little of,
    see `lut.measuring.context`. The transferred megabytes (1e6 bytes,
    fp32) are those of the input and of the last block's output, which makes the offset a
    function of resolution and head. A promptable network has `decoder_ms` on top: published rows
    include SAM's mask decoder.
    """

    fixed_ms: float = 0.0
    ms_per_mb: float = 0.0
    scale: float = 1.0
    decoder_ms: float = 0.0
    ms_per_m_params: float = 0.0
    ms_per_peak_mb: float = 0.0

    def __post_init__(self) -> None:
        terms = (
            self.fixed_ms,
            self.ms_per_mb,
            self.decoder_ms,
            self.ms_per_m_params,
            self.ms_per_peak_mb,
        )
        if not (all(0 <= term < math.inf for term in terms) and 0 < self.scale < math.inf):
            raise TableError(f"network terms must not be negative, scale positive: {self}")

    def offset_ms(self, blocks: Sequence[Block], batch: int) -> float:
        """Return the part of a network's latency that no block causes, in ms of one image."""
        offset_ms = self.offset_of(
            batch,
            params_m=params_m(blocks) if self.ms_per_m_params else 0.0,
            transferred_mb=transferred_mb(blocks),
            peak_mb=peak_mb(blocks) if self.ms_per_peak_mb else 0.0,
            promptable=promptable(blocks),
        )
        return float(offset_ms)

    def offset_of(
        self,
        batch: int,
        *,
        params_m: Number,
        transferred_mb: Number,
        peak_mb: Number,
        promptable: bool,
    ) -> Number:
        """Return `offset_ms` from what it depends on, each of one network or (networks,)."""
        decoder_ms = self.decoder_ms if promptable else 0.0
        once_ms = self.fixed_ms + self.ms_per_m_params * params_m
        transferred_ms = self.ms_per_mb * transferred_mb
        return once_ms / batch + transferred_ms + decoder_ms + self.ms_per_peak_mb * peak_mb

    def to_dict(self) -> dict[str, float]:
        """Return the fields by name, for a sidecar."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, float]) -> "NetworkTerms":
        """Read what `to_dict` gives. Raises TableError."""
        try:
            return cls(**{name: float(value) for name, value in data.items()})
        except (TypeError, ValueError) as error:
            raise TableError(f"bad network terms: {reason_of(error)}") from None


def params_m(blocks: Sequence[Block]) -> float:
    """Return millions of parameters."""
    return network_cost(blocks).params / 1e6


def peak_mb(blocks: Sequence[Block]) -> float:
    """Return the largest sum of live activations of one image, fp32, in MB (1e6 bytes)."""
    return peak_activations(blocks) * HOST_BYTES / 1e6


def promptable(blocks: Sequence[Block]) -> bool:
    """Tell whether the network ends in SAM's neck, the only head that closes with a layer norm."""
    return blocks[-1].kind == "layer_norm"


def transferred_mb(blocks: Sequence[Block]) -> float:
    """Return input picture and last block's output of one image, fp32, in MB (1e6 bytes)."""
    first, last = blocks[0], blocks[-1]
    height, width = last.out_size
    elements = first.in_channels * first.height * first.width + last.out_channels * height * width
    return elements * HOST_BYTES / 1e6
