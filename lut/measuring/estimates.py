"""How long what is left of a build takes: guesses from what its campaign has measured so far."""

import math
import random
from dataclasses import dataclass

from lut.measuring.assemble import reference_us
from lut.measuring.campaign import Campaign
from lut.measuring.chunks import REFERENCES
from lut.measuring.probes import difference_of
from lut.measuring.run import BuildRun
from supernet.blocks import blocks_of
from supernet.cost import network_cost

WARM_UP = 8  # passes' time that loading includes: the first three are two to three times slower
PROBE_LOAD = 0.1  # of the time to build and load a network: that of a probe, about
SAMPLED = 200  # networks, or blocks, whose MACs are looked at


@dataclass(frozen=True)
class Estimates:
    """Seconds of parts of a build, once its reference networks have been measured."""

    build: BuildRun
    campaign: Campaign

    def of_networks_s(self, count: int) -> float:
        """Return how long `count` random networks take, with two chunks' references."""
        rng = random.Random(0)
        space = self.build.space
        macs = [network_cost(blocks_of(space.sample(rng))).macs for _ in range(SAMPLED)]
        low, high = min(macs), max(macs)
        # they are spread over the logarithm of their latency
        mean = (high - low) / math.log(high / low) if high > low else low
        runs_us = count * mean * self._us_per_mac()
        runs_s = 1e-6 * runs_us * self._passes_in_all() + count * self._load_s()
        return runs_s + 2 * self.of_references_s()

    def of_references_s(self) -> float:
        """Return how long the reference networks take in every chunk."""
        runs_s = 1e-6 * self._references_us() * self._passes_in_all()
        return runs_s + len(self.build.references) * self._load_s()

    def of_block_s(self) -> float:
        """Return how long a block takes, before any was measured: by MACs."""
        blocks = self.build.blocks
        some = random.Random(0).sample(blocks, min(len(blocks), SAMPLED))
        probes = [difference.probe for block in some if (difference := difference_of(block))]
        mean_macs = sum(network_cost(probe).macs for probe in probes) / len(probes)
        runs_s = 1e-6 * self._us_per_mac() * mean_macs * self._passes_in_all()
        return 2 * (PROBE_LOAD * self._load_s() + runs_s)

    def _passes_in_all(self) -> int:
        return self.build.passes + (WARM_UP if self.build.driver.kind == "timer" else 0)

    def _references_us(self) -> float:
        """Return the time of one pass over all copies of the references, in microseconds."""
        return REFERENCES * float(reference_us(self.campaign).sum())

    def _us_per_mac(self) -> float:
        macs = sum(network_cost(blocks_of(arch)).macs for arch in self.build.references)
        return float(reference_us(self.campaign).sum()) / macs

    def _load_s(self) -> float:
        """Return how long building and loading a network takes, from the first chunk's."""
        warm_up_s = 1e-6 * self._references_us() * WARM_UP
        loading_s = self.campaign.measured[0].loading_s
        return max(loading_s - warm_up_s, loading_s / 2) / len(self.build.references)
