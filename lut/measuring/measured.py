"""One chunk of a campaign and what its passes gave: the latencies of its models."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lut.measuring.chunks import REFERENCES, Chunk
from lut.measuring.probes import Probe
from lut.measuring.samples import LOW_SHARE, Latency, latency_of, mean_of
from results.errors import RunError


@dataclass
class Measured:
    """One chunk and what its passes gave."""

    chunk: Chunk
    passes: dict[int, list[float | None]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)  # by index of the model
    energy_mj: dict[int, float] = field(default_factory=dict)  # of one run, by index of the model
    loading_s: float = 0.0  # of its first session, until its models were loaded and warm
    remarks: dict[int, str] = field(default_factory=dict)  # of the runtime's tool, likewise
    verdict: str = ""  # accepted, rejected or split
    drift: float = 0.0
    loads: list[float] = field(default_factory=list)
    temperatures_c: list[float] = field(default_factory=list)
    merged: list["Measured"] = field(default_factory=list)  # earlier attempts that count, too

    def latencies(self) -> dict[Probe, Latency]:
        """Return the latency of every model that ran, in microseconds of one run."""
        models = self.chunk.models()
        columns = np.array([[math.nan if v is None else v for v in us] for us in self.rows()])
        copies: dict[Probe, list[Latency]] = {}
        start = 0
        for model in models:
            samples = columns[:, start : start + model.repeats].ravel()
            start += model.repeats
            samples = samples[np.isfinite(samples)]
            if len(samples):
                copies.setdefault(model.blocks, []).append(latency_of(samples, self.share))
        return {blocks: mean_of(of_copies) for blocks, of_copies in copies.items()}

    def energies_mj(self) -> dict[Probe, float]:
        """Return the energy of one run of every model that told it, the mean over its copies."""
        copies: dict[Probe, list[float]] = {}
        for index, model in enumerate(self.chunk.models()):
            if (mj := self.energy_mj.get(index)) is not None:
                copies.setdefault(model.blocks, []).append(mj)
        return {blocks: sum(of_copies) / len(of_copies) for blocks, of_copies in copies.items()}

    @cached_property
    def size(self) -> tuple[int, int]:
        """Return how many models the chunk has, and how many samples a pass."""
        models = self.chunk.models()
        return len(models), sum(model.repeats for model in models)

    def rows(self) -> list[list[float | None]]:
        """Return the passes, (samples,) each in microseconds, with merged attempts' behind them."""
        return [
            attempt.passes[number]
            for attempt in (self, *self.merged)
            for number in sorted(attempt.passes)
        ]

    @property
    def share(self) -> float:
        """Return the share of samples that count: as many as one attempt has, the calmest."""
        return LOW_SHARE * len(self.passes) / max(len(self.rows()), 1)

    def reference_us(self) -> list[float]:
        """Return the latency of every reference network, in microseconds."""
        return [latency.us for latency in self.references()]

    def references(self) -> list[Latency]:
        """Return the latency of every reference network, over its copies. Raises RunError."""
        count = len(self.chunk.references)
        rows = self.rows()
        latencies = []
        for index in range(count):
            copies = range(index, REFERENCES * count, count)
            if any(all(row[i] is None for row in rows) for i in copies):
                raise RunError(f"chunk {self.chunk.number}: no time of reference {index}")
            samples = ([row[i] for row in rows if row[i] is not None] for i in copies)
            latencies.append(mean_of([latency_of(np.array(s, float), self.share) for s in samples]))
        return latencies
