"""What --compile does to a training step: `python -m tests.benchmarks.compiling`.

Whole steps of `supernet.train` on pictures in memory, compiled against not compiled, in turn in
shuffled order, paired by round with 95 % bootstrap intervals; of networks alone and of a supernet
at one resolution. Beside them how long the first step took, nothing of it kept from before (the
first case also pays for what the compiler does once a process). One thread on a CPU; on the first
GPU where PyTorch sees one.

The record goes to results/benchmarks/compiling.json, on a GPU to compiling-cuda.json.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from supernet.arch import Arch
from supernet.model import build
from supernet.official import official_arch
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.tasks.choose import training_task
from supernet.tasks.options import TaskOptions
from supernet.training.distributed import Ranks
from supernet.training.sandwich import OneArch, Sampler, SandwichRule
from supernet.training.trainer import Recipe, SingleNetwork, Trainer
from tests.benchmarks.models import ratio, times_of
from tests.benchmarks.record import machine, write_record

CASES = [("b0", 32, 64), ("b1", 32, 96), ("tiny", 32, 64)]  # the last one is a supernet
ROUNDS = 12


def steps(name: str, batch: int, side: int, *, compile: bool, device: str) -> Callable[[], object]:
    task = training_task(TaskOptions("classification"))
    torch.manual_seed(0)
    x, y = torch.randn(batch, 3, side, side), torch.arange(batch) % 12
    model: Supernet | SingleNetwork
    sampler: Sampler
    if name == "tiny":
        space = get_space(name)
        model = Supernet(space)
        sampler = SandwichRule(space, 2, seed=0, num_steps=1000, resolutions=((side, side),))
    else:
        arch: Arch = replace(official_arch(name), resolution=(side, side))
        model, sampler = SingleNetwork(build(arch)), OneArch(arch, 0)
    recipe = Recipe(num_steps=1000, clip=2.0, compile=compile)
    trainer = Trainer(model, task, sampler, recipe, Ranks(device=torch.device(device)))

    def step() -> object:
        report = trainer.step([(x, y)])
        if device == "cuda":
            torch.cuda.synchronize()
        return report

    return step


def compare(name: str, batch: int, side: int, device: str) -> dict[str, object]:
    plain = steps(name, batch, side, compile=False, device=device)
    compiled = steps(name, batch, side, compile=True, device=device)
    again = steps(name, batch, side, compile=False, device=device)
    plain(), again()
    started = time.perf_counter()
    compiled()
    first = time.perf_counter() - started
    found = times_of({"plain": plain, "compiled": compiled, "again": again}, ROUNDS)
    return {
        "network": name,
        "batch": batch,
        "side": side,
        "rounds": ROUNDS,
        "first_step_seconds": first,
        "median_ms": {kind: 1e3 * statistics.median(times) for kind, times in found.items()},
        "ratio": ratio(found["compiled"], found["plain"]),
        "null_ratio": ratio(found["again"], found["plain"]),
    }


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    comparisons = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            comparisons.append(compare(*case, device))
        print(json.dumps(comparisons[-1]), flush=True)
    fields = {
        "machine": machine() if device == "cpu" else torch.cuda.get_device_name(),
        "settings": "one thread, fp32, channels last" if device == "cpu" else "fp32, channels last",
        "comparisons": comparisons,
    }
    name = "compiling" if device == "cpu" else "compiling-cuda"
    write_record(name, fields, command="python -m tests.benchmarks.compiling")


if __name__ == "__main__":
    main()
