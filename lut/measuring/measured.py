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
        """Of every model that ran, in microseconds of one run."""
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
        return {blocks: mean_of(found) for blocks, found in copies.items()}

    def energies_mj(self) -> dict[Probe, float]:
        """Of one run of every model whose energy was told, the mean over its copies."""
        copies: dict[Probe, list[float]] = {}
        for index, model in enumerate(self.chunk.models()):
            if (mj := self.energy_mj.get(index)) is not None:
                copies.setdefault(model.blocks, []).append(mj)
        return {blocks: sum(found) / len(found) for blocks, found in copies.items()}

    @cached_property
    def size(self) -> tuple[int, int]:
        """Models of the chunk, and samples of a pass."""
        models = self.chunk.models()
        return len(models), sum(model.repeats for model in models)

    def rows(self) -> list[list[float | None]]:
        """The passes, those of merged attempts behind them."""
        return [
            attempt.passes[number]
            for attempt in (self, *self.merged)
            for number in sorted(attempt.passes)
        ]

    @property
    def share(self) -> float:
        """Of samples that count: as many as of one attempt, the calmest of all attempts."""
        return LOW_SHARE * len(self.passes) / max(len(self.rows()), 1)

    def reference_us(self) -> list[float]:
        """Of every reference network."""
        return [latency.us for latency in self.references()]

    def references(self) -> list[Latency]:
        """Latency of every reference network, over its copies."""
        count = len(self.chunk.references)
        rows = self.rows()
        found = []
        for index in range(count):
            copies = range(index, REFERENCES * count, count)
            if any(all(row[i] is None for row in rows) for i in copies):
                raise RunError(f"chunk {self.chunk.number}: no time of reference {index}")
            samples = ([row[i] for row in rows if row[i] is not None] for i in copies)
            found.append(mean_of([latency_of(np.array(s, float), self.share) for s in samples]))
        return found
