"""What a build measures, and in which order: all blocks or those of a budget, then networks."""

import math
import time
from collections.abc import Sequence

from lut.measuring.assemble import complete, interpolator_of, measured_entries
from lut.measuring.campaign import Campaign
from lut.measuring.chunks import BLOCKS, MOST_BYTES, MOST_SHARE, NETWORKS, TERMS, split
from lut.measuring.estimates import Estimates
from lut.measuring.plan import corners, rounds_of, stratified
from lut.measuring.run import BuildRun
from lut.rows import Entry
from supernet.arch import Arch
from supernet.blocks import Block, blocks_of

MOST_MEASURED = 8000  # blocks, where no budget says otherwise
USUAL_ROUNDS = 3.0  # of a block, where some are measured oftener than others
FIRST = 400  # blocks that a budget's first chunk covers the space with
FITTED_NETWORKS = 32  # beside the references, for what blocks cost in a network
FITTING_S = 5.0  # an interpolator's fit, about
STARTING_S = 4.0  # until a build measures, and from its last network to its table
FIRST_SHARE = 0.35  # of a budget, for the first chunk at most
FEWEST = 50  # blocks that are worth a chunk


class Schedule:
    """The order in which one build has its campaign measure."""

    def __init__(self, build: BuildRun, campaign: Campaign) -> None:
        self.build, self.campaign = build, campaign
        self._timings = 1.0  # of blocks, in all rounds, that are planned

    def measure(self) -> dict[Block, Entry]:
        """Measure all that the journal lacks, and return an entry for every block of the build.

        Raises TargetError where the host is lost, TableError where no block runs there.
        """
        self.campaign.start()
        if self.build.budget_s is not None:
            self._measure_within(self.build.budget_s)
        elif not self._has_networks():  # later samples would change what they were chosen by
            self._measure_all()
            self.campaign.recheck()
        entries = complete(measured_entries(self.campaign), self.build.blocks)
        self._measure_networks(entries)
        return entries

    def done(self) -> float:
        """Return how far the blocks are: the seconds of a budget, else percent.

        Passes of rejected chunks do not count.
        """
        if self.build.budget_s is not None:
            return self.campaign.seconds
        counted = [
            measured
            for measured in self.campaign.measured
            if measured.chunk.role == BLOCKS and measured.verdict in ("", "accepted")
        ]
        timings = sum(len(measured.passes) * len(measured.chunk.content) for measured in counted)
        return 100 * timings / (self.build.passes * self._timings)

    def _has_networks(self) -> bool:
        """Return whether networks were measured already, chosen by what blocks had given."""
        return any(measured.chunk.role == TERMS for measured in self.campaign.accepted)

    def _measure_all(self) -> None:
        """Measure every block, or the most telling ones where they are too many."""
        wanted = self.build.blocks
        if len(wanted) > MOST_MEASURED:
            wanted = corners(wanted, MOST_MEASURED)
        first, most = self.build.driver.rounds, self.build.driver.most_rounds
        rounds = dict.fromkeys(wanted, first)
        self._timings = len(wanted) * (first if most == first else USUAL_ROUNDS)
        for number in range(1, most + 1):
            if number == first + 1:
                entries = complete(measured_entries(self.campaign), self.build.blocks)
                ms = {block: entry.latency_ms for block, entry in entries.items()}
                oftener = rounds_of(self.build.space, ms, first, most)
                rounds = {block: oftener[block] for block in wanted}
                self._timings = sum(rounds.values())
            times = self.campaign.times_done()
            left = [block for block in wanted if times[block] < min(number, rounds[block])]
            self._measure_blocks(left, self.build.options.seed + number)

    def _measure_within(self, budget_s: float) -> None:
        """Measure first what covers the space, then where the interpolator is least sure."""
        campaign = self.campaign
        began = time.monotonic() - campaign.seconds
        while True:
            timed = set(campaign.times_done())
            left = [block for block in self.build.blocks if block not in timed]
            if not left:
                return
            if not timed:
                count = int(FIRST_SHARE * budget_s / self._estimates().of_block_s())
                chosen = corners(left, min(max(count, FEWEST), FIRST))
            else:
                rest_s = budget_s - (time.monotonic() - began) - self._ahead_s()
                seconds_a_block = campaign.seconds / len(timed)
                count = min(int(rest_s / seconds_a_block), 3 * max(len(timed), FIRST))
                if count < FEWEST:
                    return
                interpolator = interpolator_of(measured_entries(campaign))
                chosen = interpolator.most_uncertain(left, min(count, len(left)))
            self._measure_blocks(chosen, len(timed))

    def _estimates(self) -> Estimates:
        return Estimates(self.build, self.campaign)

    def _ahead_s(self) -> float:
        """Return the seconds of a budget that are not for blocks."""
        estimates = self._estimates()
        networks_s = estimates.of_networks_s(self._num_fitted() + self.build.options.networks)
        return networks_s + 2 * FITTING_S + STARTING_S + estimates.of_references_s()

    def _num_fitted(self) -> int:
        return FITTED_NETWORKS if self.build.budget_s is None else FITTED_NETWORKS // 2

    def _measure_blocks(self, blocks: Sequence[Block], seed: int) -> None:
        memory_mb = self.build.facts.get("memory_mb", math.inf)
        chunks = split(
            blocks,
            self.build.setting.precision,
            batch=self.build.setting.batch,
            seed=seed,
            most=self.build.driver.most_models,
            most_bytes=min(MOST_BYTES, MOST_SHARE * 1e6 * memory_mb),
        )
        for content in chunks:
            self.campaign.measure(BLOCKS, content)

    def _measure_networks(self, entries: dict[Block, Entry]) -> None:
        """Measure whole networks: those that terms and factors are fitted to, and held-out ones."""

        def predict_ms(arch: Arch) -> float:
            return sum(entries[block].latency_ms for block in blocks_of(arch))

        build, campaign = self.build, self.campaign
        of_terms = (m for m in campaign.accepted if m.chunk.role == TERMS)
        fitted = [arch for measured in of_terms for arch in measured.chunk.content]
        seed = build.options.seed
        if not fitted:
            count = self._num_fitted()
            fitted = stratified(build.space, predict_ms, count, seed + 2, build.references)
        timed = (*build.references, *fitted)
        held_out = stratified(build.space, predict_ms, build.options.networks, seed + 1, timed)
        for role, archs in ((TERMS, fitted), (NETWORKS, held_out)):
            done = any(m.chunk.role == role and m.chunk.content for m in campaign.accepted)
            if archs and not done:
                campaign.measure(role, archs)
