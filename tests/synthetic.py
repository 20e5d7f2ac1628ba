"""A machine whose every latency is known: additive blocks, noise, and whatever goes wrong."""

import random
import zlib
from functools import cache

from lut.measuring.probes import key_of
from results.errors import TargetError
from supernet.cost import cost_of

START_US = 3.0  # of a run, whatever the model


@cache
def true_us(block):
    """Of one block: its work, and a quirk that no model of it knows; a pool is cheap."""
    block = key_of(block)
    quirk = zlib.crc32(repr(block).encode()) % 1000 / 2500  # 0 to 40 %
    cost = cost_of(block)
    return (cost.macs / 2e4 + cost.moved_elements / 4e3) * (0.8 + quirk) + 0.5


class Machine:
    """Stands for `run_session`, and for the host that it gets.

    `noise`: standard deviation of a sample, relative; a tenth of all take twice as long.
    `speed`: by the number of the session, how much slower the machine is in it.
    `warp`: by the number of the session, a further factor for large models alone.
    `kills`: whether a model kills the session that runs it.
    """

    name = "local"

    def __init__(self, *, noise=0.0, speed=None, warp=None, kills=None, die_after=(), version="1"):
        self.noise, self.version = noise, version
        self.speed = speed or {}
        self.warp = warp or {}
        self.kills = kills or (lambda blocks: False)
        self.die_after = list(die_after)  # passes that the first sessions give before they die
        self.sessions = []
        self.gone = False
        self.slowness = 1.0
        self.rng = random.Random(0)

    def run(self, argv, *, timeout_s, stdin=None):
        if self.gone:
            raise TargetError("local: gone")
        return ""

    def us(self, blocks, number):
        total = START_US + sum(true_us(block) for block in blocks)
        factor = self.slowness * self.speed.get(number, 1.0)
        if total > 5000:
            factor *= self.warp.get(number, 1.0)
        disturbed = 2.0 if self.noise and self.rng.random() < 0.1 else 1.0
        return total * factor * disturbed * max(0.5, self.rng.gauss(1, self.noise))

    def __call__(self, host, setting, models, passes, workspace=None):
        number = len(self.sessions)
        self.sessions.append([model.blocks for model in models])
        yield {"environment": {"runtime": setting.runtime, "version": self.version, "cpus": [0]}}
        if any(self.kills(model.blocks) for model in models):
            raise TargetError("local: python was ended by signal 11")
        limit = self.die_after[number] if number < len(self.die_after) else passes.count
        for count in range(passes.count):
            if count == limit:
                raise TargetError("local: connection lost", transient=True)
            us = [self.us(m.blocks, number) for m in models for _ in range(m.repeats)]
            yield {"pass": passes.first + count, "us": us, "load": 0.5, "temperature_c": 40.0}
