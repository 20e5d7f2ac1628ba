"""A measuring campaign: chunks of models timed until accepted, every pass in a journal.

A chunk is accepted if its reference networks kept their proportions: after one common scale
none is off by more than 3 %, beyond its own standard error, from what the other chunks found,
and the references alone before them. Else it is measured again, and after three attempts the
calmest samples of all of them count. In the end, without a budget, every chunk is held against
all others once more.

Where a session dies, what it gave is kept and the rest is timed in a new one; where it keeps
dying, the chunk is cut in two until the model that kills it stands alone, and that one is
reported.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lut.measuring.chunks import BLOCKS, NETWORKS, REFERENCES, Chunk
from lut.measuring.journal import Journal
from lut.measuring.measured import Measured
from lut.runtimes.lines import check_fits
from lut.runtimes.session import MODELS, Setting, run_session
from lut.runtimes.timing import Passes
from lut.targets.host import Host
from results.errors import RunError, TargetError, UserError
from supernet.arch import Arch
from supernet.blocks import Block

PASSES = 12  # kept; two more at the start are dropped
MOST_DRIFT = 0.03
FOR_GOOD = 1000  # times, for a block that no further round shall try
MOST_ATTEMPTS = 3  # of a chunk that drifts, and of a session that dies
SAME = ("runtime", "version", "provider", "gpu", "threads", "cpus")  # of an environment, always


class Campaign:
    """What has been measured so far, and how more is."""

    def __init__(
        self,
        host: Host,
        setting: Setting,
        references: Sequence[Arch],
        journal: Journal,
        *,
        passes: int = PASSES,
        seed: int = 0,
    ) -> None:
        self.host, self.setting, self.references = host, setting, tuple(references)
        self.journal, self.passes, self.seed = journal, passes, seed
        self.on_progress: Callable[[], None] = lambda: None  # called after every pass
        self.measured: list[Measured] = []
        self.environment: dict[str, Any] = {}
        self.trouble = ""  # the last session's that died
        self.seconds = 0.0  # spent in sessions, over all resumptions
        for number, line in zip(journal.numbers, journal.lines, strict=True):
            try:
                self._check(line)
                self._take(line)
            except UserError as error:
                raise journal.damaged(number, str(error)) from None
        for left in journal.path.parent.glob(f"{MODELS}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)

    @property
    def accepted(self) -> list[Measured]:
        """Return the chunks that count, in the order of their numbers."""
        return [measured for measured in self.measured if measured.verdict == "accepted"]

    def start(self) -> None:
        """Measure what an earlier process left undone; the references alone, before all else."""
        for measured in list(self.measured):
            if not measured.verdict:
                self._measure(measured)
        if self.references and not self.accepted:
            self.measure(NETWORKS, ())

    def measure(self, role: str, content: Iterable[Any]) -> None:
        """Time one more chunk until it is accepted. Raises TargetError where the host is lost."""
        self._measure(self._open(role, tuple(content)))

    def recheck(self) -> None:
        """Hold every chunk against all others, and measure those again that do not fit."""
        for measured in self.accepted:
            if measured.chunk.role != BLOCKS and measured.chunk.content:
                continue  # networks are measured last, when every chunk has been held to others
            drift = self._drift(measured)
            if drift > MOST_DRIFT and not measured.merged:
                self._judge(measured, "rejected", drift)
                if len(self._same(measured)) < MOST_ATTEMPTS:
                    self.measure(measured.chunk.role, measured.chunk.content)
                else:
                    self._merge(measured)

    def _open(self, role: str, content: tuple[Any, ...]) -> Measured:
        self._note(Chunk(len(self.measured), role, content, self.references).to_line())
        return self.measured[-1]

    def _measure(self, measured: Measured) -> None:
        while True:
            if not self._run(measured):
                self._split(measured)
                return
            drift = self._drift(measured)
            if drift <= MOST_DRIFT:
                self._judge(measured, "accepted", drift)
                return
            if len(self._same(measured)) >= MOST_ATTEMPTS:
                self._merge(measured)
                return
            self._judge(measured, "rejected", drift)
            measured = self._open(measured.chunk.role, measured.chunk.content)

    def _merge(self, measured: Measured) -> None:
        """Accept what never came out steady, by the calmest samples of all attempts."""
        others = [m.chunk.number for m in self._same(measured) if m is not measured]
        measured.merged = [self.measured[number] for number in others]
        drift = self._drift(measured)
        measured.merged = []
        self._judge(measured, "accepted", drift, merged=others)

    def _judge(self, measured: Measured, verdict: str, drift: float, **more: Any) -> None:
        line = {"chunk": measured.chunk.number, "verdict": verdict, "drift_percent": 100 * drift}
        self._note({**line, **more})

    def _same(self, measured: Measured) -> list[Measured]:
        """Return all attempts at a chunk, itself included."""
        same = (measured.chunk.role, measured.chunk.content)
        return [m for m in self.measured if (m.chunk.role, m.chunk.content) == same and m.passes]

    def _run(self, measured: Measured) -> bool:
        """Make all passes of a chunk, over several sessions where they die.

        Return False where it keeps dying. Raises TargetError where the host or the runtime is at
        fault, not a model.
        """
        models = measured.chunk.models()
        died = 0
        while len(measured.passes) < self.passes or self._lacks_energy(measured, len(models)):
            before = len(measured.passes) + len(measured.energy_mj)
            begun = False  # the runtime is there, and has begun to load models
            started = time.monotonic()
            try:
                passes = Passes(
                    count=self.passes - len(measured.passes),
                    first=max(measured.passes, default=-1) + 1,
                    seed=self.seed + measured.chunk.number,
                )
                workspace = self.journal.path.parent
                session = run_session(self.host, self.setting, models, passes, workspace)
                samples = sum(model.repeats for model in models)
                for line in session:
                    check_fits(line, len(models), samples, self.host.name, TargetError)
                    if "environment" in line:
                        begun = True
                        self._check_environment(line["environment"])
                    if {"pass", "failed", "environment", "energy", "remark"} & set(line):
                        seconds = time.monotonic() - started
                        started += seconds
                        self._note({"chunk": measured.chunk.number, **line, "seconds": seconds})
                    if "failed" in line and self._failed_reference(measured):
                        break
            except TargetError as error:
                self._note({"chunk": measured.chunk.number, "trouble": str(error)})
                gained = len(measured.passes) + len(measured.energy_mj) > before
                died = 0 if gained else died + 1
                if not begun and not error.transient:
                    raise
                if died >= MOST_ATTEMPTS:
                    if not begun or self._host_lost():
                        raise
                    return False
                time.sleep(died)
                continue
            if refused := self._failed_reference(measured):
                self._judge(measured, "rejected", 0.0)
                raise TargetError(refused)
            if len(measured.passes) + len(measured.energy_mj) == before:
                break  # it ended well, and told no more
        return True

    def _check_environment(self, environment: dict[str, Any]) -> None:
        """Raise RunError where a resumed build would mix two runtimes."""
        for name in SAME if self.environment else ():
            before, now = self.environment.get(name), environment.get(name)
            if before != now:
                raise RunError(
                    f"{self.host.name}: {self.journal.path.parent} was measured with {name} "
                    f"{before}, not {now}; go on where it was begun, or start a new build"
                )

    def _lacks_energy(self, measured: Measured, count: int) -> bool:
        """Return whether a session died between its passes and its energies."""
        return self.setting.energy and len(measured.energy_mj) + len(measured.failed) < count

    def _failed_reference(self, measured: Measured) -> str:
        """Return what to say where a reference fails, as nothing could be judged; else ""."""
        for index, error in measured.failed.items():
            if index < REFERENCES * len(measured.chunk.references):
                arch = measured.chunk.references[index % len(measured.chunk.references)]
                return (
                    f"{self.host.name}: {self.setting.runtime} cannot run the reference network "
                    f"{arch.describe()} in {self.setting.precision}: {error}"
                )
        return ""

    def _host_lost(self) -> bool:
        """Return whether not a model but the host is at fault."""
        try:
            self.host.run(["true"], timeout_s=60)
        except TargetError:
            return True
        return False

    def _split(self, measured: Measured) -> None:
        """Measure a chunk that kills its sessions in two halves, or leave its one model out."""
        content = measured.chunk.content
        if not content:
            raise TargetError(f"the reference networks end every session: {self.trouble}")
        if len(content) == 1:
            self._note({"chunk": measured.chunk.number, "verdict": "failed"})
            return
        self._note({"chunk": measured.chunk.number, "verdict": "split"})
        middle = len(content) // 2
        # both stand in the journal before either is measured: a kill between loses none
        for half in [
            self._open(measured.chunk.role, part) for part in (content[:middle], content[middle:])
        ]:
            self._measure(half)

    def _drift(self, measured: Measured) -> float:
        """Return the largest relative deviation of a reference after one common scale.

        Its own standard error does not count: it averages out over the blocks.
        """
        others = [m.reference_us() for m in self.accepted if m is not measured]
        if not others or not measured.chunk.references:
            return 0.0
        own = measured.references()
        logs = np.log([latency.us for latency in own]) - np.log(np.median(others, axis=0))
        deviations = np.abs(np.expm1(logs - logs.mean()))
        errors = np.array([latency.std_us / latency.us for latency in own])
        return float(np.maximum(deviations - errors, 0.0).max())

    def _note(self, line: dict[str, Any]) -> None:
        self._check(line)
        self.journal.append(line)
        self._take(line)

    def _check(self, line: dict[str, Any]) -> None:
        """Raise RunError for a line that cannot follow those before it."""
        number = line["chunk"]
        if "role" in line:
            if number != len(self.measured):
                raise RunError(f"it begins chunk {number}, and the next is {len(self.measured)}")
            return
        if number >= len(self.measured):
            raise RunError(f"it tells of chunk {number}, which was never begun")
        measured = self.measured[number]
        if {"pass", "failed", "remark", "energy"} & set(line):
            num_models, num_samples = measured.size
            check_fits(line, num_models, num_samples, f"chunk {number}", RunError)
        if line.get("pass") in measured.passes:
            raise RunError(f"pass {line['pass']} of chunk {number} was told before")
        if "verdict" in line:
            self._check_verdict(measured, line["verdict"], line.get("merged", ()))

    def _check_verdict(self, measured: Measured, verdict: str, merged: Sequence[int]) -> None:
        chunk = measured.chunk
        if verdict in ("failed", "split") and not chunk.content:
            raise RunError(f"chunk {chunk.number} has nothing that {verdict}")
        rows = list(measured.passes.values())
        for other in merged:
            same = self.measured[other].chunk if other < len(self.measured) else None
            if same is None or other == chunk.number or same.content != chunk.content:
                raise RunError(f"chunk {other} is no other attempt at chunk {chunk.number}")
            rows += self.measured[other].passes.values()
        if verdict == "accepted":
            for index in range(REFERENCES * len(chunk.references)):
                if all(row[index] is None for row in rows):
                    raise RunError(f"chunk {chunk.number} has no time of reference {index}")

    def _take(self, line: dict[str, Any]) -> None:
        """Learn from a line of the journal, be it new or read."""
        if "role" in line:
            self.measured.append(Measured(Chunk.from_line(line, self.references)))
            return
        measured = self.measured[line["chunk"]]
        seconds = line.get("seconds") or 0.0
        self.seconds += seconds
        if not measured.passes:
            measured.loading_s += seconds
        if "pass" in line:
            measured.passes[line["pass"]] = line["us"]
            if line.get("load") is not None:
                measured.loads.append(line["load"])
            if line.get("temperature_c") is not None:
                measured.temperatures_c.append(line["temperature_c"])
            self.on_progress()
        elif "failed" in line:
            measured.failed[line["failed"]] = line["error"]
        elif "energy" in line:
            measured.energy_mj[line["energy"]] = line["mj"]
        elif "environment" in line:
            self.environment = line["environment"]
        elif "trouble" in line:
            self.trouble = line["trouble"]
        elif "remark" in line:
            measured.remarks[line["remark"]] = line["text"]
        elif "verdict" in line:
            measured.verdict = line["verdict"]
            measured.drift = line.get("drift_percent", 0.0) / 100
            measured.merged = [self.measured[number] for number in line.get("merged", ())]

    @property
    def notes(self) -> list[str]:
        """Return which models were left out, and why."""
        dead = (m.chunk.content[0] for m in self.measured if m.verdict == "failed")
        return [f"it ends every session: {item}" for item in dict.fromkeys(dead)]

    def times_done(self) -> Counter[Block]:
        """Return how often each block was measured; FOR_GOOD for those that were left out."""
        accepted = (m for m in self.accepted if m.chunk.role == BLOCKS)
        done = Counter(block for m in accepted for block in m.chunk.content)
        dead = (m for m in self.measured if m.chunk.role == BLOCKS and m.verdict == "failed")
        return done | Counter({m.chunk.content[0]: FOR_GOOD for m in dead})
